// Draws each figure of the page with plotly. Its colours read on a light and on a dark page.
addEventListener("DOMContentLoaded", () => {
  const options = { responsive: true, displaylogo: false, displayModeBar: "hover" };
  for (const place of document.querySelectorAll(".bilens-figure")) {
    const figure = JSON.parse(place.querySelector("script").textContent);
    delete figure.layout.width; // as wide as the page
    place.replaceChildren();
    Plotly.newPlot(place, figure.data, figure.layout, options);
  }
});
