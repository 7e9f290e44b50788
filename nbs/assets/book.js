// Search when the book is opened as a file: a browser then refuses to fetch search.json, but it does load search.js.
(() => {
  if (location.protocol !== "file:") return;
  const fetchFromHost = window.fetch.bind(window);
  window.fetch = (address, options) => {
    if (!/(^|\/)search\.json$/.test(String(address))) return fetchFromHost(address, options);
    return new Promise((resolve, reject) => {
      const answer = () => resolve(new Response(JSON.stringify(window.gptbookSearch)));
      if (window.gptbookSearch) return answer();
      const script = document.createElement("script");
      script.src = String(address).replace(/\.json$/, ".js");
      script.onload = answer;
      script.onerror = reject;
      document.head.append(script);
    });
  };
})();

// A phone: tables, figures and code are made to fit it; what still scrolls can be reached by keyboard.
(() => {
  const phone = window.matchMedia("(max-width: 575.98px)");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- tables: first smaller, then with code that breaks, then one row below the other, each cell with its column's name
  const STEPS = ["snug", "broken", "stacked"];
  const fitTable = (table) => {
    const box = table.parentElement, head = table.tHead && table.tHead.rows[0];
    table.classList.remove(...STEPS);
    if (!phone.matches || table.closest(".playground")) return;
    const steps = head && !table.closest(".gptbook-explore") ? STEPS : STEPS.slice(0, 2);
    for (const step of steps) {
      if (box.scrollWidth <= box.clientWidth) return;
      table.classList.add(step);
      if (step === "stacked") name(table, head);
    }
  };
  const name = (table, head) => {
    if (table.dataset.named) return;
    table.dataset.named = "1";
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, i) => {
        const title = head.cells[i];
        if (!title || !title.textContent.trim() || !cell.textContent.trim() || i === 0) return;
        const label = document.createElement("span");
        label.className = "cell-name";
        label.append(...[...title.childNodes].map((node) => node.cloneNode(true)), " ");
        cell.prepend(label);
      });
    }
  };

  // ---- figures: panels side by side go below each other; one wide panel scrolls in its box, so that its labels can be read
  const READABLE = 0.75, WIDEST = 480, NARROWEST = 130; // share of the natural width: 10-point labels have 9 px; CSS pixels
  const cuts = (image) => { // where to cut, from the widest empty column to the narrowest
    const width = image.naturalWidth, height = image.naturalHeight;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const pixels = new Uint32Array(pen.getImageData(0, 0, width, height).data.buffer);
    const empty = (x) => {
      for (let y = 0; y < height; y++) if (pixels[y * width + x] !== pixels[0]) return false;
      return true;
    };
    const runs = [];
    for (let x = 0, start = null; x < width; x++) {
      if (empty(x)) start ??= x;
      else if (start !== null) { if (start > 0 && x - start > 6) runs.push([start, x]); start = null; }
    }
    runs.sort((a, b) => b[1] - b[0] - (a[1] - a[0]));
    for (let count = 1; count <= Math.min(3, runs.length); count++) {
      const edges = [0, ...runs.slice(0, count).map(([a, b]) => Math.round((a + b) / 2)).sort((a, b) => a - b), width];
      const parts = edges.slice(1).map((edge, i) => [edges[i], edge]);
      if (parts.every(([a, b]) => b - a >= NARROWEST && b - a <= WIDEST)) return parts;
    }
    return null;
  };
  const show = (image, [from, to], width, height, scale) => {
    image.classList.add("figure-part");
    image.style.cssText = `width: ${Math.floor((to - from) * scale)}px; aspect-ratio: ${to - from} / ${height}; object-position: ${(100 * from) / (width - to + from)}% 0`;
  };
  const fitFigure = (image) => {
    const box = image.closest(".figure-box");
    while (image.nextElementSibling && image.nextElementSibling.matches(".figure-part.copy")) image.nextElementSibling.remove();
    image.classList.remove("figure-part", "figure-wide");
    image.style.cssText = "";
    if (box) box.replaceWith(...box.childNodes);
    const width = image.naturalWidth, height = image.naturalHeight;
    if (!phone.matches || width <= WIDEST) return;
    let parts = null;
    try { parts = cuts(image); } catch (error) { /* a canvas that may not be read: the figure stays whole */ }
    if (parts) {
      const room = image.parentElement.clientWidth, scale = Math.min(1.15, ...parts.map(([a, b]) => room / (b - a)));
      for (const part of parts.slice(1).reverse()) {
        const copy = Object.assign(new Image(), { src: image.src, alt: "" });
        copy.classList.add("copy");
        show(copy, part, width, height, scale);
        image.after(copy);
      }
      return show(image, parts[0], width, height, scale);
    }
    if (image.closest(".gptbook-explore")) return; // a control does not scroll
    const around = document.createElement("span");
    around.className = "figure-box";
    around.addEventListener("scroll", () => around.classList.toggle("at-end", around.scrollLeft + around.clientWidth >= around.scrollWidth - 2));
    image.replaceWith(around);
    around.append(image);
    image.classList.add("figure-wide");
    image.style.cssText = `width: ${Math.round(READABLE * width)}px`;
  };

  // ---- what scrolls sideways takes the keyboard's focus, and nothing else does
  const SCROLLS = "main :is(pre, .math.display, .sd-table, .cell-output, .figure-box, .gptbook-frame, #lens)";
  const reach = () => all(SCROLLS).forEach((e) => {
    const scrolls = e.scrollWidth > e.clientWidth && e.clientWidth > 0;
    if (scrolls && !e.hasAttribute("tabindex")) { e.tabIndex = 0; e.dataset.reached = "1"; }
    if (!scrolls && e.dataset.reached) { e.removeAttribute("tabindex"); delete e.dataset.reached; }
  });

  const FIGURES = "main :is(.cell-output-display, .gptbook-frame, p) img:not(.copy, .front-picture)";
  const fit = () => {
    all(FIGURES).forEach((image) => { if (image.complete && image.naturalWidth) fitFigure(image); });
    all("main table").forEach(fitTable);
    reach();
  };
  let asked = null;
  const soon = () => { clearTimeout(asked); asked = setTimeout(fit, 40); };
  const start = () => {
    fit();
    let width = window.innerWidth;
    window.addEventListener("resize", () => { if (width !== window.innerWidth) { width = window.innerWidth; soon(); } });
    document.addEventListener("toggle", soon, true); // what was folded has its size now
    document.addEventListener("load", (event) => { // a control shows another frame
      if (event.target.matches && event.target.matches(FIGURES)) fitFigure(event.target);
    }, true);
    const frames = new MutationObserver((changes) => changes.forEach(({ target }) => all("table", target).forEach(fitTable)));
    all(".gptbook-frame").forEach((frame) => frames.observe(frame, { childList: true }));
  };
  if (document.readyState === "complete") start(); else window.addEventListener("load", start);
})();
