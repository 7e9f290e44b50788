// Connects every control on the page that is not connected yet: unpacks its frames once, shows one at every move.
(() => {
  const play = (button, slider, show) => {
    if (!button) return;
    let timer = null;
    const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
    const move = (position) => { slider.value = position; show(); };
    const step = () => slider.value === slider.max ? stop() : move(Number(slider.value) + 1);
    button.addEventListener("click", () => {
      if (timer) return stop();
      if (slider.value === slider.max) move(0);
      button.textContent = "Pause";
      timer = setInterval(step, Number(button.dataset.interval));
    });
    slider.addEventListener("pointerdown", stop);
    slider.addEventListener("keydown", stop);
  };
  const connect = async (box) => {
    box.dataset.ready = "1";
    const knobs = JSON.parse(box.dataset.knobs), place = box.querySelector(".gptbook-frame");
    const packed = Uint8Array.from(atob(box.querySelector("script").textContent), (c) => c.charCodeAt(0));
    const unzipped = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const { order, frames } = JSON.parse(await new Response(unzipped).text());
    const inputs = [...box.querySelectorAll("input, select")];
    const show = () => {
      const labels = inputs.map((input, i) => knobs[i].labels[input.value]);
      const cell = inputs.reduce((sum, input, i) => sum * knobs[i].labels.length + Number(input.value), 0);
      inputs.forEach((input, i) => {
        if (input.type !== "range") return;
        input.setAttribute("aria-valuetext", labels[i]);
        input.nextElementSibling.value = labels[i];
      });
      box.dataset.shown = knobs.map((knob, i) => knob.name + " = " + labels[i]).join(", ");
      place.style.minHeight = place.offsetHeight + "px"; // the page below stays where it is
      const frame = frames[order[cell]];
      if (frame.html !== undefined) return void (place.innerHTML = frame.html);
      const image = place.querySelector("img") || place.appendChild(new Image());
      image.alt = box.dataset.shown;
      image.width = frame.width;
      image.src = frame.svg ? "data:image/svg+xml," + encodeURIComponent(frame.svg) : "data:image/png;base64," + frame.png;
    };
    inputs.forEach((input) => input.addEventListener("input", show));
    play(box.querySelector("button"), inputs[0], show);
    show();
    box.querySelector(".gptbook-knobs").hidden = false;
  };
  const controls = () => document.querySelectorAll(".gptbook-explore:not([data-ready])");
  const start = () => controls().forEach((box) => connect(box).catch(console.error));
  start();
  setTimeout(start, 500); // some notebooks run this before the control is in the page
})();
