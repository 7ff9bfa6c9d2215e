"use strict";

const MAX_BYTES = 2 * 1024 ** 2; // the service's limit; larger photos are downscaled
const MAX_PIXELS = 16e6;
const FORMATS = /^image\/(png|jpeg|webp|gif|bmp|tiff)$/; // what the service reads; others are converted to JPEG
const LONGER_SIDE = 2000; // longest side, in pixels, that the service uses
const STROKE = 0.055; // fraction of the pad's width: thin enough for numbers
const RETRY_MS = 1500;
const UNSURE = 0.8; // confidence below which a prediction is uncertain, as in predict
const LIVE_MS = 100; // between requests while a stroke is drawn
const SHAPES = [ // strokes of each digit, as x from 0 to 6 and y from 0 to 9; a point that comes twice is a corner
  "30 00 09 69 60 30", "12 30 30 39", "02 10 60 64 09 09 69", "01 10 60 64 24 24 64 69 19 08", "20 05 05 65,42 49",
  "60 10 10 14 14 63 69 29 08", "50 11 04 09 69 64 14 06", "00 60 60 29", "40 00 04 65 69 09 05 64 60 40",
  "63 60 00 05 65 62 62 59",
];

const byId = (id) => document.getElementById(id);
const [pad, boxes, answer, seen, bars, hint] = ["pad", "boxes", "answer", "seen", "bars", "hint"].map(byId);
const paint = pad.getContext("2d");

let strokes = []; // each a list of points in [0, 1]
let cleared = []; // the strokes that Clear removed, for Undo
let many = true; // whether the model finds digits in pictures, or takes all of it
let sent = 0; // when the latest drawing was sent
let photo = null; // a bitmap
let pointer = null; // id of the drawing pointer
let request = null; // the AbortController of the latest request
let version = 0; // increases with each change, so that slow operations notice that they are outdated

// ---- drawing

function trace(context, size) {
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = STROKE * size;
  for (const points of strokes) {
    context.beginPath();
    context.moveTo(points[0].x * size, points[0].y * size);
    for (let i = 1; i < points.length; i++) { // curves through the middles of the segments look smooth
      const [a, b] = [points[i - 1], points[i]];
      context.quadraticCurveTo(a.x * size, a.y * size, (a.x + b.x) / 2 * size, (a.y + b.y) / 2 * size);
    }
    const end = points.at(-1);
    context.lineTo(end.x * size + 0.01, end.y * size); // so that a tap leaves a dot
    context.stroke();
  }
}

function redraw() {
  paint.clearRect(0, 0, pad.width, pad.height);
  if (photo) {
    const { left, top, width, height } = place(photo);
    paint.drawImage(photo, left * pad.width, top * pad.height, width * pad.width, height * pad.height);
  }
  paint.strokeStyle = getComputedStyle(pad).color;
  trace(paint, pad.width);
  hint.hidden = strokes.length > 0 || photo !== null;
  byId("clear").setAttribute("aria-disabled", !hint.hidden); // unlike disabled, keeps the focus
  byId("undo").setAttribute("aria-disabled", !hint.hidden && !cleared.length);
}

function place(bitmap) { // an image's position on the square pad, as fractions of the pad
  const longer = Math.max(bitmap.width, bitmap.height);
  const [width, height] = [bitmap.width / longer, bitmap.height / longer];
  return { left: (1 - width) / 2, top: (1 - height) / 2, width, height };
}

function drawing() { // black on white, whatever the page's colors are
  const paper = new OffscreenCanvas(pad.width, pad.height);
  const context = paper.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, paper.width, paper.height);
  context.strokeStyle = "black";
  trace(context, paper.width);
  return paper;
}

function pointOf(event) {
  const { left, top, width, height } = pad.getBoundingClientRect();
  return { x: (event.clientX - left) / width, y: (event.clientY - top) / height };
}

pad.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button !== 0) return;
  if (photo) forgetPhoto();
  cleared = [];
  pointer = event.pointerId;
  pad.setPointerCapture(pointer);
  strokes.push([pointOf(event)]);
  redraw();
});

pad.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pointer) return;
  const events = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(events.length ? events : [event]).map(pointOf));
  if (performance.now() - sent > LIVE_MS && !request?.isPending) update();
  else redraw();
});

pad.addEventListener("lostpointercapture", (event) => { // fires after every stroke, however it ends
  if (event.pointerId !== pointer) return;
  pointer = null;
  update();
});

function undo() {
  if (pointer !== null) return;
  if (photo) forgetPhoto();
  else if (strokes.length) strokes.pop();
  else [strokes, cleared] = [cleared, []];
  update();
}

function clearAll() {
  if (pointer !== null) return; // in the middle of a stroke
  forgetPhoto();
  if (strokes.length) [strokes, cleared] = [[], strokes];
  update();
}

function drawNumber(text) { // as if by hand, for those who can't draw
  if (pointer !== null) return;
  forgetPhoto();
  const vary = (amount) => (2 * Math.random() - 1) * amount;
  const height = [0.6, 0.5, 0.35][text.length - 1], width = 0.57 * height;
  [cleared, strokes] = [strokes, [...text].flatMap((digit, place) => {
    const slant = vary(0.1), size = 1 + vary(0.08);
    const center = 0.5 + (place - (text.length - 1) / 2) * (width + 0.125);
    return SHAPES[digit].split(",").map((stroke) => stroke.split(" ").map(([column, row]) => {
      const y = size * height * ((row - 4.5) / 9 + vary(0.02));
      return { x: center + size * width * ((column - 3) / 6 + vary(0.03)) - slant * y, y: 0.5 + y };
    }));
  })];
  update();
}

byId("undo").addEventListener("click", undo);
byId("sample").addEventListener("click", () => {
  drawNumber(String(Math.floor(Math.random() * 10 ** Math.ceil(3 * Math.random()))));
});
byId("clear").addEventListener("click", clearAll);
document.addEventListener("keydown", (event) => {
  if (byId("viewfinder").open) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") undo();
  else if (["Delete", "Backspace", "Escape"].includes(event.key)) clearAll();
  else return;
  event.preventDefault();
});

// ---- photos

async function openPhoto(file) {
  if (!reader.readsPhotos) return;
  const mine = ++version;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return report("This browser can't show that file. A PNG or JPEG will do.");
  }
  const { width, height } = bitmap;
  if (file.size > MAX_BYTES || width * height > MAX_PIXELS || !FORMATS.test(file.type)) {
    const factor = Math.min(1, LONGER_SIDE / Math.max(width, height));
    file = await asJpeg(bitmap, Math.round(width * factor), Math.round(height * factor));
    bitmap.close();
    bitmap = await createImageBitmap(file);
  }
  if (mine !== version || pointer !== null) return bitmap.close(); // a stroke has begun
  strokes = cleared = [];
  forgetPhoto();
  photo = bitmap;
  redraw();
  show([]);
  report("Reading…");
  predict(file);
}

function asJpeg(image, width, height) {
  const paper = new OffscreenCanvas(width, height);
  const context = paper.getContext("2d");
  context.fillStyle = "white"; // where the image is transparent
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  return paper.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

function forgetPhoto() {
  photo?.close();
  photo = null;
  boxes.replaceChildren();
}

byId("choose").hidden = byId("offer").hidden = !reader.readsPhotos;
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  if (event.target.files.length) openPhoto(event.target.files[0]);
  event.target.value = ""; // lets the user choose the same file again
});

const desk = byId("desk");
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // otherwise the browser would open the image instead of the page
    desk.classList.toggle("dropping", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) openPhoto(event.dataTransfer.files[0]);
  });
}

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) openPhoto(event.clipboardData.files[0]);
});

const video = byId("video");

async function offerCamera() {
  const devices = (await navigator.mediaDevices?.enumerateDevices()) ?? []; // undefined without https
  byId("camera").hidden = !reader.readsPhotos || !devices.some((device) => device.kind === "videoinput");
}

byId("camera").addEventListener("click", async (event) => {
  event.target.disabled = true; // until the user has answered the permission prompt
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    byId("viewfinder").showModal();
  } catch {
    report("The camera can't be used here.");
  }
  event.target.disabled = false;
});

byId("take").addEventListener("click", async () => {
  if (!video.videoWidth) return; // the first frame has not arrived
  const image = await asJpeg(video, video.videoWidth, video.videoHeight);
  byId("viewfinder").close();
  openPhoto(image);
});

byId("leave").addEventListener("click", () => byId("viewfinder").close());
byId("viewfinder").addEventListener("close", () => video.srcObject?.getTracks().forEach((track) => track.stop()));

// ---- predictions

function update() {
  version++;
  redraw();
  request?.abort();
  request = null;
  if (!strokes.length) {
    boxes.replaceChildren();
    report("");
    return show([]);
  }
  sent = performance.now();
  predict(drawing());
}

async function predict(picture) { // a photo or a drawing
  request?.abort();
  const mine = (request = new AbortController());
  mine.isPending = true;
  let found = null, problem = "";
  try {
    found = await reader.read(picture, many, mine.signal);
  } catch (error) {
    problem = error.message;
    if (error.isTemporary) setTimeout(() => mine.signal.aborted || predict(picture), RETRY_MS);
  }
  mine.isPending = false;
  if (mine.signal.aborted) return;
  report(problem);
  boxes.replaceChildren(); // they are those of an earlier drawing
  if (!found) show([]);
  else if (many) showLines(found);
  else choose(found.predictions[0]);
}

function showLines({ predictions, lines }) { // all digits, in boxes if there are several; one is chosen
  const { left, top, width, height } = place(photo ?? pad);
  const text = lines.join("\n"), certainties = predictions.map(certainty), lowest = Math.min(...certainties);
  if (predictions.length === 1 && !photo) return choose(predictions[0], text);
  const marks = predictions.map((found) => {
    const { box } = found;
    const mark = document.createElement("button");
    mark.type = "button";
    mark.dataset.text = nameOf(found);
    mark.className = certainty(found) < UNSURE ? "unsure" : "";
    mark.setAttribute("aria-label", `${nameOf(found)}, ${percent(found.confidence)}`);
    mark.style.left = `${100 * (left + box.left / (photo ?? pad).width * width)}%`;
    mark.style.top = `${100 * (top + box.top / (photo ?? pad).height * height)}%`;
    mark.style.width = `${100 * box.width / (photo ?? pad).width * width}%`;
    mark.style.height = `${100 * box.height / (photo ?? pad).height * height}%`;
    mark.addEventListener("click", (event) => {
      const asksWhy = event.isTrusted && !byId("reasons").hidden; // keeps asking about the digit that is chosen
      for (const other of marks) other.setAttribute("aria-pressed", other === mark);
      choose(found, text, lowest);
      if (asksWhy) explain();
    });
    return mark;
  });
  boxes.className = photo ? "" : "drawn"; // strokes can be drawn through them
  boxes.replaceChildren(...marks);
  marks[lowest < UNSURE ? certainties.indexOf(lowest) : 0].click();
}

function choose(found, text = nameOf(found), lowest = certainty(found)) { // shows one digit, and says how sure it is
  show([found], text, lowest);
  const [[first, p1], [second, p2]] = Object.entries(found.probabilities).sort((a, b) => b[1] - a[1]);
  const isOne = text === nameOf(found), isWide = found.box?.width > 1.2 * found.box?.height;
  const maybe = p2 > 0.1 ? `, maybe ${second}` : p1 > UNSURE && isOne ? ", or several digits" : "";
  if (certainty(found) >= UNSURE) report("");
  else if (found.known >= 0.5) report(`${isOne ? "Probably" : "Unsure about the"} ${first}${maybe}.`);
  else if (!isOne) report("A part of that doesn't look like a digit.");
  else report(`That doesn't look like a digit.${isWide ? " If these are several digits, leave gaps between them." : ""}`);
}

function certainty(found) {
  return found.known < 0.5 ? 0 : found.confidence;
}

function nameOf(found) {
  return found.known < 0.5 ? "?" : found.prediction;
}

function show([found], text = found?.prediction, lowest = 1) {
  answer.textContent = text ?? "?";
  byId("copy").hidden = !found || text === "?";
  const size = text?.length > 5 ? "long" : text?.length > 2 ? "number" : "";
  answer.className = `${found ? "" : "empty"} ${lowest < UNSURE ? "unsure" : ""} ${size}`;
  showPixels(seen, found?.image ?? Array(28).fill([]));
  offerWhy(found);
  showBars(found?.probabilities ?? Object.fromEntries([..."0123456789"].map((name) => [name, 0])));
}

function showPixels(canvas, image) { // gray or color
  const size = canvas.width = canvas.height = image.length;
  const pixels = new ImageData(size, size);
  image.flat().forEach((value, i) => pixels.data.set([...[value, value, value].flat().slice(0, 3), 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function showBars(probabilities) {
  const entries = Object.entries(probabilities);
  const order = [...entries].sort((a, b) => b[1] - a[1]);
  const shown = entries.length > 10 ? order.slice(0, 10) : entries; // the page has no room for all letters
  while (bars.children.length < shown.length) {
    const row = document.createElement("li");
    row.innerHTML = '<span class="name"></span><span class="track"><span></span></span><span class="percent"></span>';
    bars.append(row);
  }
  shown.forEach(([name, probability], i) => {
    const row = bars.children[i];
    row.className = probability > 0 && name === order[0][0] ? "first" : "";
    row.querySelector(".name").textContent = name;
    row.querySelector(".track span").style.width = `${100 * probability}%`;
    row.querySelector(".percent").textContent = probability >= 0.0005 ? percent(probability) : "";
  });
}

function percent(fraction) {
  return `${(100 * fraction).toFixed(1)}%`;
}

function report(text) {
  byId("status").textContent = text;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
byId("copy").addEventListener("click", () => navigator.clipboard.writeText(answer.textContent));

byId("why").addEventListener("click", () => byId("reasons").hidden ? explain() : closeWhy());

redraw();
show([]);
offerCamera();
reader.about().then((model) => {
  many = model.is_handwriting !== "False";
  const images = model.dataset && model.dataset !== "ImageFolder" ? `${model.dataset}'s test images` : "its test images";
  if (model.accuracy) byId("accuracy").textContent = `This network reads ${(100 * model.accuracy).toFixed(2)}% of ${images} correctly.`;
}, () => {});
