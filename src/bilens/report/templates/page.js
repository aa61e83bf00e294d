for (const box of document.querySelectorAll(".chart")) {
  const figure = JSON.parse(box.querySelector("script").textContent);
  Plotly.newPlot(box, figure.data, figure.layout, { responsive: true, displayModeBar: false });
}
for (const prompt of document.querySelectorAll(".prompt")) {
  const buttons = [...prompt.children], panels = [...prompt.parentElement.querySelectorAll(".panel")];
  buttons.forEach((button, chosen) => button.addEventListener("click", () => {
    buttons.forEach((other, n) => other.setAttribute("aria-pressed", n === chosen));
    panels.forEach((panel, n) => { panel.hidden = n !== chosen; });
  }));
}
