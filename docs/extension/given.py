import torch

import bilens

model = bilens.load("tinystories-2l")
mlp = model.blocks[0].mlp
T = mlp.tensor().detach()  # 128 × 128 × 128, in three factors
x = torch.randn(4, 128)
D = bilens.features.Dictionary.load("tinystories-2l/mlp1.input")
prompt, target = "Once upon a time there was a little", (" girl", " boy")
