"""The views of a model, one file each, in the order of the page.

A new view is a file here and its line in ``VIEWS``. Its blocks are drawn by web/src/sections.
"""

from bilens.report.view import View
from bilens.report.views import (
    classes,
    classifier_facts,
    compare,
    directions,
    exactness,
    features,
    gates,
    language_facts,
    nearest_tensors,
    prompt,
    rules,
    spectra,
    truncation,
    weights,
)

VIEWS: tuple[View, ...] = (
    classifier_facts.VIEW,
    language_facts.VIEW,
    prompt.VIEW,
    spectra.VIEW,
    rules.VIEW,
    weights.VIEW,
    features.VIEW,
    compare.VIEW,
    exactness.VIEW,
    nearest_tensors.VIEW,
    classes.VIEW,
    truncation.VIEW,
    directions.VIEW,
    gates.VIEW,
)
# of a page that is served: what is cheap
LIVE: tuple[View, ...] = (language_facts.VIEW, prompt.VIEW)
