// One clip, from the microphone or a file, to the kernel and nowhere else.

const PART = 2 ** 20; // bytes a message; Jupyter closes a connection that sends more than 10 MiB at once
const PATIENCE = 5000; // ms until a busy kernel is mentioned
const INSTEAD = "Choose a file instead, or read one in a cell with read_audio(\"clip.wav\").";
const REFUSED = {
  NotAllowedError: "The microphone is not allowed here. Allow it by the icon beside the address, "
    + "and in the system's privacy settings, then press Record again.",
  NotFoundError: "No microphone was found. Plug one in and press Record again.",
  NotReadableError: "The microphone cannot be opened: another program may hold it. Close it and press Record again.",
};

/** Why no microphone can be had on this page at all; "" where one can be asked for. */
function hindrance() {
  if (!window.isSecureContext) {
    return `Browsers give the microphone only to pages on https or localhost, and this one is on ${location.origin}. `
      + "Reach the server through a tunnel (ssh -L 8888:localhost:8888) and open http://localhost:8888.";
  }
  const able = navigator.mediaDevices?.getUserMedia && window.MediaRecorder;
  return able ? "" : "This browser cannot record.";
}

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

function make(tag, className, attributes = {}, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

function render({ model, el }) {
  const microphone = model.get("microphone");
  const box = make("div", "mlr", { role: "group", "aria-label": microphone ? "Recorder" : "Upload of a clip" });
  const record = make("button", "mlr-record", { type: "button" }, "Record");
  const time = make("span", "mlr-time", { role: "timer" });
  const level = make("span", "mlr-level", { "aria-hidden": "true" });
  const bar = level.appendChild(make("i", ""));
  const choose = make("button", "mlr-choose", { type: "button" }, microphone ? "or choose a file" : "Choose a file");
  const file = make("input", "", { type: "file", accept: "audio/*,video/*", hidden: "", "aria-label": "Audio file" });
  const player = make("audio", "mlr-player", { controls: "", hidden: "" });
  const note = make("p", "mlr-note", { role: "status" });
  const row = make("div", "mlr-row");
  row.append(...(microphone ? [record, time, level] : []), choose, file);
  box.append(row, player, note);
  el.append(box);

  let session = null; // the recording that runs
  let asking = false; // the browser's question is open
  let waiting = 0; // the timer of a clip that the kernel has not answered
  let gone = false; // the view was closed

  const limit = () => model.get("max_seconds");
  const say = (text, wrong = false) => {
    note.textContent = text;
    box.classList.toggle("mlr-wrong", wrong);
  };
  const show = (seconds) => { time.textContent = `${clock(seconds)} / ${clock(limit())}`; };

  function play(blob, label) {
    URL.revokeObjectURL(player.src);
    player.hidden = !blob.size;
    if (!blob.size) return player.removeAttribute("src");
    player.src = URL.createObjectURL(blob);
    player.setAttribute("aria-label", label);
  }
  player.addEventListener("error", () => { player.hidden = true; }); // the kernel says what is wrong with the file
  // Recordings state no duration until the player has seen their end.
  player.addEventListener("loadedmetadata", () => {
    if (player.duration !== Infinity) return;
    player.addEventListener("durationchange", () => { player.currentTime = 0; }, { once: true });
    player.currentTime = 1e7;
  });

  async function send(blob, name) {
    const most = model.get("max_bytes");
    if (blob.size > most) {
      const [is, may] = [blob.size, most].map((bytes) => (bytes / 2 ** 20).toFixed(1));
      player.hidden = true;
      return say(`The file is ${is} MB large, more than the ${may} MB allowed; cut out the part that matters.`, true);
    }
    say("On its way to the kernel…");
    clearTimeout(waiting);
    waiting = setTimeout(() => say("The kernel is busy, or stopped: it answers when its cell is done."), PATIENCE);
    const id = `${Date.now()}-${Math.random()}`;
    const parts = Math.max(1, Math.ceil(blob.size / PART));
    for (let part = 0; part < parts; part++) {
      const buffer = await blob.slice(part * PART, (part + 1) * PART).arrayBuffer();
      model.send({ kind: "clip", id, name: name.slice(-200), part, parts }, undefined, [buffer]);
    }
  }

  function idle() {
    session = null;
    box.classList.remove("mlr-on");
    record.textContent = "Record";
    choose.disabled = false;
    bar.style.width = "0";
  }

  async function start() {
    const why = hindrance();
    if (why) return say(`${why} ${INSTEAD}`, true);
    asking = true;
    say("Allow the microphone where the browser asks.");
    let stream;
    try {
      // Loudness and its course are cues of emotion: the browser must not level them.
      const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    } catch (error) {
      const known = REFUSED[error.name] ?? `The microphone cannot be used (${error.name}).`;
      return say(`${known} ${INSTEAD}`, true);
    } finally {
      asking = false;
    }
    const off = () => stream.getTracks().forEach((track) => track.stop());
    if (gone) return off();
    try {
      listen(stream, off);
    } catch (error) {
      off();
      idle();
      say(`This browser cannot record (${error.name}). ${INSTEAD}`, true);
    }
  }

  function listen(stream, off) {
    const recorder = new MediaRecorder(stream); // the browser's own container: webm, mp4 or ogg
    const context = new AudioContext();
    const meter = context.createAnalyser();
    context.createMediaStreamSource(stream).connect(meter);
    const samples = new Float32Array(meter.fftSize);
    const chunks = [];
    const begin = performance.now();
    const ticks = setInterval(() => {
      const seconds = (performance.now() - begin) / 1000;
      show(Math.min(seconds, limit()));
      meter.getFloatTimeDomainData(samples);
      const power = samples.reduce((sum, x) => sum + x * x, 0) / samples.length;
      bar.style.width = `${Math.min(100, Math.max(0, 100 + (10 * Math.log10(power + 1e-9) * 100) / 60))}%`; // 60 dB
      if (seconds >= limit()) stop();
    }, 50);

    recorder.ondataavailable = (event) => chunks.push(event.data);
    recorder.onstop = () => {
      clearInterval(ticks);
      context.close();
      off();
      if (gone) return;
      idle();
      const blob = new Blob(chunks, { type: recorder.mimeType });
      if (!blob.size) return say("Nothing was recorded; press Record, speak, then press Stop.", true);
      play(blob, "Your recording");
      send(blob, `recording.${recorder.mimeType.match(/\/(\w+)/)?.[1] ?? "webm"}`);
    };
    session = recorder;
    recorder.start();
    box.classList.add("mlr-on");
    record.textContent = "Stop";
    choose.disabled = true;
    player.pause();
    say(`Recording, for ${limit()} seconds at most.`);
  }

  function stop() {
    if (session?.state === "recording") session.stop();
  }

  record.addEventListener("click", () => {
    if (session) stop();
    else if (!asking) start();
  });
  choose.addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    const chosen = file.files[0];
    file.value = ""; // so that the same file can be chosen again
    if (!chosen) return;
    play(chosen, "The chosen file");
    send(chosen, chosen.name);
  });

  const answered = () => {
    const answer = model.get("answer");
    if (!answer.text) return;
    clearTimeout(waiting);
    say(answer.text, !answer.ok);
  };
  model.on("change:answer", answered);
  answered();
  show(0);

  return () => {
    gone = true;
    clearTimeout(waiting);
    model.off("change:answer", answered);
    stop();
    URL.revokeObjectURL(player.src);
  };
}

export default { render };
