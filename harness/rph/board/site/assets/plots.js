// Draws a page's plots where they are first shown, in the colours of the theme. The data stand in the page.
(() => {
  "use strict";
  const drawn = new Map(); // container -> its Bokeh documents

  function colour(name) {
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  }

  // What Bokeh draws on a canvas knows no CSS variable. A glyph or span names its colour in its tags.
  function paint(doc) {
    const [text, muted, line, page] = ["text", "muted", "line", "page"].map(colour);
    for (const model of doc.all_models ?? doc._all_models.values()) {
      const named = (model.tags ?? []).find((tag) => typeof tag === "string" && tag.startsWith("colour:"));
      if (model.type === "Figure") model.setv({ background_fill_color: page, border_fill_color: page, outline_line_color: line });
      else if (model.type.endsWith("Axis")) {
        model.setv({
          axis_label_text_color: muted, major_label_text_color: text,
          axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null,
        });
      } else if (model.type === "Grid") model.setv({ grid_line_color: line, grid_line_alpha: 0.6 });
      else if (model.type === "Label") model.setv({ text_color: muted });
      if (named) {
        const value = colour(named.slice("colour:".length));
        if (model.properties.line_color) model.setv({ line_color: value });
        if (model.properties.fill_color) model.setv({ fill_color: value });
      }
    }
  }

  async function draw() {
    for (const container of document.querySelectorAll(".plot")) {
      if (drawn.has(container) || container.closest("[hidden]")) continue;
      drawn.set(container, []);
      const item = JSON.parse(document.getElementById(container.dataset.source).textContent);
      const views = await Bokeh.embed.embed_item(item, container.id);
      const docs = [...views].map((view) => view.model.document);
      drawn.set(container, docs);
      docs.forEach(paint);
    }
  }

  document.addEventListener("shown", draw);
  document.addEventListener("theme", () => [...drawn.values()].flat().forEach(paint));
  draw();
})();
