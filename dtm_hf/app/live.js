// Plays speech while it is made. An <audio> element waits for some 200 kB of a WAV, which are four seconds; here each
// piece is heard as soon as it has come. A box with the class dtm-live says where the samples are (16 bits, little
// endian, mono) and at which rate.
(() => {
  const LEAD = 0.05; // Seconds that the first piece is given to be scheduled.
  const playing = new Map();

  async function play(box) {
    const rate = Number(box.dataset.rate);
    const context = new AudioContext({ sampleRate: rate });
    playing.set(box, context);
    box.context = context;
    const button = box.querySelector("button");
    const label = () => (button.textContent = context.state === "running" ? "Pause" : "Play");
    context.onstatechange = label;
    button.onclick = () => (context.state === "running" ? context.suspend() : context.resume());
    label();
    const reader = (await fetch(box.dataset.src)).body.getReader();
    let at = 0, seconds = 0, held = new Uint8Array(0), last = null;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || context.state === "closed") break;
      const bytes = new Uint8Array(held.length + value.length);
      bytes.set(held);
      bytes.set(value, held.length);
      const whole = bytes.length - (bytes.length % 2);
      held = bytes.slice(whole);
      if (!whole) continue;
      const samples = Float32Array.from(new Int16Array(bytes.slice(0, whole).buffer), (x) => x / 32767);
      const buffer = context.createBuffer(1, samples.length, rate);
      buffer.copyToChannel(samples, 0);
      last = context.createBufferSource();
      last.buffer = buffer;
      last.connect(context.destination);
      at = Math.max(at, context.currentTime + LEAD);
      last.start(at);
      at += buffer.duration;
      // Of speech: `at` counts what one had to wait for it as well.
      seconds += buffer.duration;
      box.querySelector("span").textContent = ` ${seconds.toFixed(1)} s`;
    }
    // Where speech is made more slowly than it is heard, its end has been played before it is known to be the end.
    if (!last || context.currentTime >= at) stop(box);
    else last.onended = () => stop(box);
  }

  function stop(box) {
    const context = playing.get(box);
    playing.delete(box);
    if (context && context.state !== "closed") context.close();
    const button = box.querySelector("button");
    if (button) button.disabled = true;
  }

  new MutationObserver(() => {
    for (const box of playing.keys()) if (!box.isConnected) stop(box);
    for (const box of document.querySelectorAll(".dtm-live")) {
      if (!box.context && !playing.has(box)) play(box).catch(() => stop(box));
    }
  }).observe(document, { childList: true, subtree: true });
})();
