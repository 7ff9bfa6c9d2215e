"use strict";

// Why the network answers as it does: what of a digit it depends on, and the training digits that it finds similar.

const GRID = 7; // places, along each side, that are covered with paper, one at a time
const PATCH = 6; // pixels; more than the 4 between two places, so that the thickest stroke is covered
const HOT = [2, 8]; // the fall of the log-odds at the warmest place is between these; below, nothing matters much
const SHEET = { columns: 25, perClass: 50 }; // of training.png
const BATCH = 50; // images in a request

let explained = null; // the digit that is shown, if it can be explained
let explaining = new AbortController(); // aborted when another digit is shown
let trainingDigits = null; // read on first use
const trainingOutputs = []; // of as many as have been classified

function offerWhy(found) { // and closes what explains an earlier digit
  const canExplain = found && nameOf(found) !== "?" && found.image.length === 28 && found.image[0][0].length === undefined;
  explained = canExplain ? found : null;
  byId("why").hidden = !explained;
  closeWhy();
}

function closeWhy() {
  explaining.abort();
  byId("reasons").hidden = true;
  byId("why").setAttribute("aria-expanded", false);
}

async function explain() {
  if (!explained) return;
  const { image, prediction, probabilities } = explained;
  const { signal } = (explaining = new AbortController());
  showHeat(image, []);
  showNearest([]);
  byId("excuse").textContent = "One moment…";
  byId("reasons").hidden = false;
  byId("reasons").scrollIntoView({ block: "nearest" });
  byId("why").setAttribute("aria-expanded", true);
  let problem = "";
  try {
    const label = Object.keys(probabilities).indexOf(prediction);
    const covered = await reader.classify(coverPlaces(image), signal);
    if (signal.aborted) return;
    const before = logOdds(probabilities[prediction]);
    showHeat(image, covered.map((row) => before - logOdds(row[label])));
    const nearest = await findNearest(Object.values(probabilities), signal);
    if (signal.aborted) return;
    showNearest(nearest);
  } catch {
    problem = "The explanation failed. Please try again.";
  }
  if (!signal.aborted) byId("excuse").textContent = problem;
}

// ---- what the answer depends on

function coverPlaces(image) {
  const step = 28 / GRID, margin = (PATCH - step) / 2;
  const isCovered = (pixel, place) => pixel >= step * place - margin && pixel < step * (place + 1) + margin;
  return Array.from({ length: GRID ** 2 }, (_, i) => image.map((row, y) =>
    row.map((value, x) => isCovered(x, i % GRID) && isCovered(y, Math.floor(i / GRID)) ? 0 : value)));
}

function logOdds(p) { // unlike a probability, also moves where the network is sure
  return Math.log(Math.max(p, 1e-7) / Math.max(1 - p, 1e-7));
}

function showHeat(image, falls) {
  const { width } = byId("heat"), context = byId("heat").getContext("2d");
  const hottest = Math.min(HOT[1], Math.max(HOT[0], ...falls));
  const draw = (size, colors) => {
    const layer = new OffscreenCanvas(size, size), pixels = new ImageData(size, size);
    colors.forEach((color, i) => pixels.data.set(color, 4 * i));
    layer.getContext("2d").putImageData(pixels, 0, 0);
    context.drawImage(layer, 0, 0, width, width);
  };
  context.imageSmoothingQuality = "high";
  context.fillRect(0, 0, width, width);
  draw(GRID, falls.map((fall) => [255, 90, 0, 255 * Math.min(1, Math.max(0, fall / hottest))]));
  draw(28, image.flat().map((value) => [255, 255, 255, 0.7 * value])); // lets the warmth through
}

// ---- similar training digits

async function findNearest(probabilities, signal) { // their places on the sheet
  if ((await reader.about()).dataset !== "MNIST") return [];
  trainingDigits ??= await readSheet();
  while (trainingOutputs.length < trainingDigits.length) {
    const start = trainingOutputs.length;
    const rows = await reader.classify(trainingDigits.slice(start, start + BATCH), signal);
    if (signal.aborted) return [];
    trainingOutputs.push(...rows.map(lastLayer));
  }
  const own = lastLayer(probabilities);
  const distances = trainingOutputs.map((output) => Math.hypot(...output.map((value, i) => value - own[i])));
  return [...distances.keys()].sort((a, b) => distances[a] - distances[b]).slice(0, 5);
}

function lastLayer(probabilities) { // its outputs, up to a constant, which is chosen so that their mean is 0
  const logs = probabilities.map((p) => Math.max(Math.log(p), -30));
  const mean = logs.reduce((sum, log) => sum + log) / logs.length;
  return logs.map((log) => log - mean);
}

async function readSheet() {
  const sheet = new Image();
  sheet.src = "static/training.png";
  await sheet.decode();
  const context = new OffscreenCanvas(sheet.width, sheet.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(sheet, 0, 0);
  return Array.from({ length: 10 * SHEET.perClass }, (_, i) => {
    const { data } = context.getImageData(28 * (i % SHEET.columns), 28 * Math.floor(i / SHEET.columns), 28, 28);
    return Array.from({ length: 28 }, (_, y) => Array.from({ length: 28 }, (_, x) => data[4 * (28 * y + x)]));
  });
}

function showNearest(places) {
  byId("similar").hidden = !places.length;
  byId("nearest").replaceChildren(...places.map((place) => {
    const item = document.createElement("li"), canvas = document.createElement("canvas");
    showPixels(canvas, trainingDigits[place]);
    item.append(canvas, Math.floor(place / SHEET.perClass));
    return item;
  }));
}
