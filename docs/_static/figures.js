// Draws each figure of the page with plotly, in the colours of the page, light or dark.
(() => {
  const dark = () => {
    const theme = document.body.dataset.theme;
    if (theme === "auto") return matchMedia("(prefers-color-scheme: dark)").matches;
    return theme === "dark";
  };

  const colours = () => {
    const ink = dark() ? "#d5d5d5" : "#222222";
    const grid = dark() ? "#3c3c3c" : "#e2e2e2";
    return { ink, grid };
  };

  const themed = (layout) => {
    const { ink, grid } = colours();
    const made = structuredClone(layout);
    made.paper_bgcolor = made.plot_bgcolor = "rgba(0,0,0,0)";
    made.font = { family: "system-ui, sans-serif", ...made.font, color: ink };
    for (const name of Object.keys(made)) {
      if (/^[xy]axis/.test(name)) {
        made[name] = { gridcolor: grid, zerolinecolor: ink, linecolor: grid, ...made[name] };
      }
    }
    for (const axis of ["xaxis", "yaxis"]) {
      made[axis] ??= { gridcolor: grid, zerolinecolor: ink };
    }
    return made;
  };

  const options = { responsive: true, displaylogo: false, displayModeBar: "hover" };
  const figures = [];

  const draw = () => {
    for (const [place, figure] of figures) {
      Plotly.react(place, figure.data, themed(figure.layout), options);
    }
  };

  addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll(".bilens-figure")) {
      const figure = JSON.parse(place.querySelector("script").textContent);
      delete figure.layout.template;
      delete figure.layout.width;
      place.replaceChildren();
      figures.push([place, figure]);
    }
    draw();
    new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  });
})();
