"use strict";
{
  const specs = JSON.parse(document.getElementById("specs").textContent);
  // Values under the pointer; not every curve has one at every place.
  const formatTooltip = (values, escape) => {
    const row = ([name, value]) => {
      const shown = String(value).startsWith("NaN") ? "–" : value;
      return `<tr><td class="key">${escape(name)}</td><td class="value">${escape(shown)}</td></tr>`;
    };
    return `<table><tbody>${Object.entries(values).map(row).join("")}</tbody></table>`;
  };
  const tooltip = { theme: "page", formatTooltip };
  // Expressions are interpreted, not compiled, which the page's security policy would refuse.
  const options = { renderer: "svg", actions: false, ast: true, tooltip };
  const plots = [...document.querySelectorAll(".plot")];
  window.reportReady = Promise.all(
    plots.map((plot) => vegaEmbed(plot, specs[Number(plot.dataset.spec)], options)),
  ).then((views) => views.length);

  for (const select of document.querySelectorAll("select.order")) {
    const list = select.closest("section").querySelector(".gallery");
    select.addEventListener("change", () => {
      const smallestFirst = select.value === "unit" || select.value.startsWith("-");
      const key = select.value.replace("-", "");
      const value = (item) => Number(item.dataset[key]) * (smallestFirst ? 1 : -1);
      const unit = (item) => Number(item.dataset.unit);
      const items = [...list.children];
      items.sort((a, b) => value(a) - value(b) || unit(a) - unit(b));
      list.append(...items);
    });
  }

  const large = document.getElementById("large");
  const pictures = large.querySelector(".pictures");
  let shown = null;
  const show = (item) => {
    shown = item;
    const button = item.querySelector("button");
    const image = item.querySelector("img");
    const { unit, nonzeros, largest, share } = item.dataset;
    document.getElementById("large-title").textContent = `Filter ${unit}`;
    const facts = [
      `${Number(nonzeros).toLocaleString("en")} weights that are not zero`,
      `largest magnitude ${Number(largest).toPrecision(4)}`,
    ];
    if (Number(share) >= 0) facts.push(`${(100 * share).toFixed(1)} % of them in its best window`);
    document.getElementById("large-facts").textContent = `${facts.join("; ")}.`;
    const add = (name, source) => {
      const figure = document.createElement("figure");
      const picture = image.cloneNode();
      picture.src = source;
      picture.alt = `Filter ${unit}${name && `, weights of ${name}: red positive, blue negative`}`;
      figure.append(picture);
      if (name) {
        const caption = document.createElement("figcaption");
        caption.textContent = `Weights of ${name}`;
        figure.append(caption);
      }
      pictures.append(figure);
    };
    pictures.replaceChildren();
    pictures.classList.toggle("wide", item.parentElement.classList.contains("wide"));
    add("", image.src);
    for (const name of ["red", "green", "blue"]) {
      if (button.dataset[name]) add(name, button.dataset[name]);
    }
    if (!large.open) large.showModal();
  };
  const go = (step) => {
    const next = step > 0 ? shown.nextElementSibling : shown.previousElementSibling;
    if (next) show(next);
  };
  for (const item of document.querySelectorAll(".gallery li")) {
    item.querySelector("button").addEventListener("click", () => show(item));
  }
  large.addEventListener("click", (event) => {
    const step = event.target.dataset.step;
    if (event.target === large || step === "0") large.close();
    else if (step) go(Number(step));
  });
  large.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") go(1);
    if (event.key === "ArrowLeft") go(-1);
  });
  large.addEventListener("close", () => shown.querySelector("button").focus());

  // On paper what is folded is there, too, but for what charts show.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open], .chart details)")];
    for (const each of opened) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });
}
