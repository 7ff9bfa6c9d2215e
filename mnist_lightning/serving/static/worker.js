"use strict";

// Reads drawings for `standalone.js`, apart from the page, which stays responsive. What the package `images` does with
// even paper is done here in the same steps, with the same names.

importScripts("network.js");

const WORKING_ROWS = 32, STIFFNESSES = [0.5, 1.5], MAX_COST = 20, MIN_DISTANCE = 2, MAX_PARTS = 5;
const NO_DIGIT = Math.log(0.5), SHARPNESS = 2, DOUBT = 0.3, MIN_KNOWN = 0.5;
const PEN = 0.054; // width of the page's strokes where they are half dark, as a fraction of the paper's

const loading = Network.load();

const tasks = {
  about: (network) => network.metadata,

  classify: (network, images) => images.map((rows) => network.classify(Float32Array.from(rows.flat()))),

  read(network, drawing) {
    const digits = findDigits(drawing), names = network.class_names;
    if (!digits.length) throw new Error("There is nothing but specks.");
    const all = digits.map((digit) => network.classify(digit.image));
    const predictions = choose(digits, all).map(({ index, confidence }) => {
      const { image, line, left, top, width, height } = digits[index], probabilities = all[index];
      return {
        prediction: names[probabilities.indexOf(Math.max(...probabilities))],
        confidence,
        known: 1 - names.length * Math.min(...probabilities),
        probabilities: Object.fromEntries(names.map((name, i) => [name, probabilities[i]])),
        image: Array.from({ length: 28 }, (_, row) => [...image.subarray(28 * row, 28 * row + 28)]),
        box: { left, top, width, height },
        line,
      };
    });
    return { predictions, lines: joinLines(predictions) };
  },
};

onmessage = async ({ data: { id, task, input } }) => {
  try {
    postMessage({ id, result: tasks[task](await loading, input) });
  } catch (error) {
    postMessage({ id, problem: error.message });
  }
};

// ---- ink (images/ink.py)

// Returns all ink that could be digits, in a drawing with dark ink on white paper.
function findDigits(drawing) {
  const ink = findInk(drawing), digits = [];
  let node = 0;
  split(ink).forEach((pieces, line) => {
    for (const whole of pieces) {
      const parts = cut(ink, whole);
      for (const part of parts) {
        const place = { line, left: part.left + ink.left, top: part.top + ink.top, start: node + part.start, stop: node + part.stop };
        digits.push({ ...part, ...place, image: toMnist(masked(ink, part), part, PEN * drawing.width) });
      }
      node += parts.at(-1).stop;
    }
  });
  return digits;
}

function findInk(drawing) { // in the part of the drawing that has any: its place, its size and its values in [0, 1]
  const { data, width, height } = drawing;
  let [left, right, top, bottom] = [width, 0, height, 0];
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] === 255) continue;
    const x = i / 4 % width, y = Math.floor(i / 4 / width);
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  }
  const step = 1 + Math.floor(Math.max(width, height) / 350); // between the pixels of the sample
  const outer = (place) => Math.max(0, Math.floor((place - 8) / step) * step);
  [left, top] = [outer(left), outer(top)];
  const box = { left, top, width: Math.min(width, right + 8) - left, height: Math.min(height, bottom + 8) - top };
  const image = new Float32Array(Math.max(0, box.width * box.height));
  for (let i = 0; i < image.length; i++) {
    image[i] = data[4 * ((top + Math.floor(i / box.width)) * width + left + i % box.width)] / 255;
  }
  const smooth = blur(blur(image, box.width, box.height, 1, box.width), box.height, box.width, box.width, 1);
  const flat = smooth.map((value) => 1 - value);
  const sample = [];
  for (let y = 0; y < box.height; y += step) {
    for (let x = 0; x < box.width; x += step) if (flat[y * box.width + x] > 0) sample.push(flat[y * box.width + x]);
  }
  sample.sort(ascending);
  const number = Math.ceil(width / step) * Math.ceil(height / step), paper = number - sample.length;
  const level = valueAt(sample, 0.9995 * (number - 1) - paper), scale = Math.fround(200 / level); // float32, as numpy
  const threshold = Math.max(otsu(sample.map((value) => Math.floor(Math.min(255, Math.fround(value * scale))))) / 200, 0.3) * level;
  const full = quantile(sample.filter((value) => value > threshold), 0.5);
  const values = flat.map((value) => Math.min(1, Math.max(0, (value - 0.25 * threshold) / (full - 0.25 * threshold))));
  return { ...box, values };
}

function blur(values, length, number, step, jump) { // along lines of a length, with a Gaussian of one pixel
  const weights = [-4, -3, -2, -1, 0, 1, 2, 3, 4].map((x) => Math.exp(-x * x / 2)), sum = weights.reduce((a, b) => a + b);
  const mirrored = Int32Array.from({ length: length + 8 }, (_, i) => step * Math.min(Math.abs(i - 4), 2 * length + 2 - i));
  const blurred = new Float32Array(values.length);
  for (let line = 0; line < number; line++) {
    for (let i = 0; i < length; i++) {
      let total = 0;
      for (let k = 0; k < 9; k++) total += weights[k] * values[line * jump + mirrored[i + k]];
      blurred[line * jump + i * step] = total / sum;
    }
  }
  return blurred;
}

function otsu(values) { // the threshold that best separates two groups; the same steps as in OpenCV, as many are equally good
  const counts = new Array(256).fill(0);
  for (const value of values) counts[value]++;
  const share = 1 / values.length, mean = counts.reduce((sum, count, value) => sum + value * count, 0) * share;
  let [below, belowMean, best, found] = [0, 0, 0, 0];
  counts.forEach((count, value) => {
    belowMean *= below;
    below += count * share;
    const above = 1 - below;
    if (Math.min(below, above) < 2 ** -23) return;
    belowMean = (belowMean + value * count * share) / below;
    const separation = below * above * (belowMean - (mean - below * belowMean) / above) ** 2;
    if (separation > best) [best, found] = [separation, value];
  });
  return found;
}

// ---- segmentation (images/segmentation.py). A piece has left, top, width, height, and a mask of its box.

function split(ink) {
  const components = findComponents(ink);
  const sizes = components.map((component) => component.pixels.length);
  if (!sizes.length) return [];
  const limit = 0.2 * quantile([...sizes].sort(ascending), 0.9);
  const height = quantile(components.filter((_, i) => sizes[i] >= limit).map((c) => c.height).sort(ascending), 0.75);
  const groups = [];
  for (const component of [...components].sort((a, b) => b.pixels.length - a.pixels.length)) {
    if (component.pixels.length < Math.max(4, 0.003 * height ** 2)) continue; // a speck
    const group = groups.find((others) => belongs(component, union(others), height));
    if (group) group.push(component);
    else groups.push([component]);
  }
  const found = groups.map((group) => pieceOf(group, ink.width)).filter((piece) => piece.height > 0.5 * height);
  const middle = (piece) => piece.top + piece.height / 2;
  const lines = [];
  for (const piece of found.sort((a, b) => middle(a) - middle(b))) {
    const last = lines.at(-1);
    if (last && middle(piece) - mean(last.map(middle)) < 0.6 * height) last.push(piece);
    else lines.push([piece]);
  }
  return lines.map((line) => line.sort((a, b) => a.left - b.left));
}

function findComponents({ values, width, height }) {
  const isSeen = new Uint8Array(values.length), components = [];
  for (let start = 0; start < values.length; start++) {
    if (isSeen[start] || values[start] <= 0.5) continue;
    const pixels = [start];
    isSeen[start] = 1;
    let [left, right, top, bottom] = [width, 0, height, 0];
    for (let next = 0; next < pixels.length; next++) {
      const x = pixels[next] % width, y = Math.floor(pixels[next] / width);
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
      for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny++) {
        for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx++) {
          const neighbor = ny * width + nx;
          if (isSeen[neighbor] || values[neighbor] <= 0.5) continue;
          isSeen[neighbor] = 1;
          pixels.push(neighbor);
        }
      }
    }
    components.push({ left, top, width: right - left + 1, height: bottom - top + 1, pixels });
  }
  return components;
}

function union(boxes) {
  const left = Math.min(...boxes.map((b) => b.left)), top = Math.min(...boxes.map((b) => b.top));
  const right = Math.max(...boxes.map((b) => b.left + b.width)), bottom = Math.max(...boxes.map((b) => b.top + b.height));
  return { left, top, width: right - left, height: bottom - top };
}

function belongs(box, others, height) { // as a loose stroke of a digit: above, below or inside it
  const overlap = Math.min(box.left + box.width, others.left + others.width) - Math.max(box.left, others.left);
  const gap = Math.max(box.top, others.top) - Math.min(box.top + box.height, others.top + others.height);
  const together = union([box, others]).height;
  return overlap > 0.1 * Math.min(box.width, others.width) && gap < 0.3 * height && together < (gap > 0 ? 1.8 : 1.4) * height;
}

function pieceOf(components, inkWidth) {
  const box = union(components);
  let mask = new Uint8Array(box.width * box.height);
  for (const { pixels } of components) {
    for (const pixel of pixels) mask[(Math.floor(pixel / inkWidth) - box.top) * box.width + pixel % inkWidth - box.left] = 1;
  }
  for (let margin = 0; margin < 2; margin++) { // for the soft edges of strokes
    mask = mask.map((value, i) => value || (i % box.width > 0 && mask[i - 1]) || (i % box.width < box.width - 1 && mask[i + 1])
      || mask[i - box.width] || mask[i + box.width] || 0);
  }
  return { ...box, mask, start: 0, stop: 1, cost: 0 };
}

function masked(ink, { left, top, width, height, mask }) {
  const values = new Float32Array(width * height);
  for (let i = 0; i < values.length; i++) if (mask[i]) values[i] = ink.values[(top + Math.floor(i / width)) * ink.width + left + i % width];
  return values;
}

function cut(ink, whole) { // all parts that could be digits if several touch, followed by the whole
  const { left, top, width, height, mask } = whole, values = masked(ink, whole);
  const columns = Math.max(3, round(WORKING_ROWS * width / height));
  const reduced = shrink(values, width, height, columns, WORKING_ROWS);
  const seams = STIFFNESSES.flatMap((stiffness) => findSeams(reduced, columns, stiffness)).sort((a, b) => a.cost - b.cost);
  const edges = [new Array(WORKING_ROWS).fill(0), new Array(WORKING_ROWS).fill(columns)];
  for (const { cost, path } of seams) {
    const isNew = edges.every((edge) => mean(path.map((x, row) => Math.abs(x - edge[row]))) >= MIN_DISTANCE);
    if (cost < MAX_COST && isNew) edges.push(path);
  }
  const places = edges[0].map((_, row) => edges.map((edge) => edge[row]).sort(ascending).map((x) => round(x * width / columns)));
  const parts = [];
  for (let start = 0; start < edges.length; start++) {
    for (let stop = start + 1; stop < edges.length && stop <= start + MAX_PARTS; stop++) {
      if (stop - start === edges.length - 1) continue;
      const between = new Uint8Array(mask.length);
      let [x0, x1, y0, y1] = [width, -1, height, -1];
      for (let y = 0; y < height; y++) {
        const row = places[Math.floor(y * WORKING_ROWS / height)];
        for (let x = row[start]; x < row[stop]; x++) {
          const i = y * width + x;
          between[i] = mask[i];
          if (mask[i] && values[i] > 0.5) [x0, x1, y0, y1] = [Math.min(x0, x), Math.max(x1, x), Math.min(y0, y), Math.max(y1, y)];
        }
      }
      const relative = (y1 + 1 - y0) / height;
      if (y1 < 0 || relative <= 0.3 || x1 - x0 >= 1.4 * height) continue;
      const box = { left: left + x0, top: top + y0, width: x1 + 1 - x0, height: y1 + 1 - y0 };
      const own = Uint8Array.from({ length: box.width * box.height }, (_, i) => between[(y0 + Math.floor(i / box.width)) * width + x0 + i % box.width]);
      parts.push({ ...box, mask: own, start, stop, cost: Math.max(0, 3 * (0.8 - relative)) });
    }
  }
  return [...parts, { ...whole, stop: edges.length - 1 }];
}

function findSeams(ink, width, stiffness) { // the cheapest paths through the ink from top to bottom
  let totals = ink.subarray(0, width), paths = Array.from(totals, (_, x) => [x]);
  for (let row = 1; row < WORKING_ROWS; row++) {
    const [before, next] = [totals, ink.slice(row * width, (row + 1) * width)];
    paths = paths.map((_, x) => {
      const steps = [before[x - 1] + stiffness, before[x], before[x + 1] + stiffness].map((step) => Math.fround(step));
      const cheapest = Math.min(...steps.filter((step) => step >= 0));
      next[x] += cheapest;
      return [...paths[x - 1 + steps.indexOf(cheapest)], x];
    });
    totals = next;
  }
  const lowest = paths.map((_, x) => x).slice(1, -1).filter((x) => totals[x] <= totals[x - 1] && totals[x] < totals[x + 1]);
  return lowest.map((x) => ({ cost: totals[x], path: paths[x] }));
}

// ---- MNIST's format (images/digits.py)

function toMnist(values, { width, height }, pen) {
  const longer = Math.max(width, height), scale = 20 / longer;
  const [columns, rows] = [Math.max(1, round(width * scale)), Math.max(1, round(height * scale))];
  const missing = round(longer / 12 - pen); // MNIST's thinnest strokes are about a twelfth of a digit
  if (missing > 0) values = thicken(thicken(values, width, height, 1, width, missing), height, width, width, 1, missing);
  const small = shrink(values, width, height, columns, rows);
  const largest = Math.max(...small), sum = small.reduce((a, b) => a + b, 0);
  const center = (coordinate) => small.reduce((total, value, i) => total + value * coordinate(i), 0) / sum;
  const fit = (middle, side) => Math.floor(Math.min(28 - side, Math.max(0, 15 - middle)));
  const top = fit(center((i) => Math.floor(i / columns)), rows), left = fit(center((i) => i % columns), columns);
  const image = new Float32Array(28 * 28);
  small.forEach((value, i) => image[(top + Math.floor(i / columns)) * 28 + left + i % columns] = round(255 * value / largest));
  return image;
}

function thicken(values, length, number, step, jump, missing) { // along lines of a length
  const thick = values.slice(), before = Math.floor((missing + 1) / 2);
  for (let line = 0; line < number; line++) {
    for (let i = 0; i < length; i++) {
      for (let k = Math.max(0, i - before); k <= Math.min(length - 1, i - before + missing); k++) {
        thick[line * jump + i * step] = Math.max(thick[line * jump + i * step], values[line * jump + k * step]);
      }
    }
  }
  return thick;
}

function shrink(values, width, height, newWidth, newHeight) { // averages of whole and partial pixels
  const along = (from, length, number, step, jump, newLength, newStep, newJump) => {
    const to = new Float32Array(newLength * number), scale = length / newLength;
    for (let i = 0; i < newLength; i++) {
      for (let place = Math.floor(i * scale); place < Math.min(length, (i + 1) * scale); place++) {
        const share = (Math.min(place + 1, (i + 1) * scale) - Math.max(place, i * scale)) / scale;
        for (let line = 0; line < number; line++) to[i * newStep + line * newJump] += share * from[place * step + line * jump];
      }
    }
    return to;
  };
  const narrow = along(values, width, height, 1, width, newWidth, 1, newWidth);
  return along(narrow, height, newWidth, newWidth, 1, newHeight, newWidth, 1);
}

// ---- lines (images/lines.py)

// Returns the index and the confidence of each digit of the most probable reading.
function choose(digits, probabilities) {
  const tops = probabilities.map((row) => Math.max(...row));
  const weights = tops.map((top, i) => Math.log(top) - digits[i].cost); // these and all that follow are logarithms
  const doubts = new Array(digits.length).fill(0);
  let whole = -1;
  for (let i = digits.length - 1; i >= 0; i--) {
    if (whole < 0 || digits[i].start < digits[whole].start) {
      whole = i; // its parts precede it
      weights[i] = Math.max(weights[i], NO_DIGIT);
    } else if (digits[i].start === digits[whole].start) doubts[i] = Math.log(1.01 - tops[whole]);
  }
  const sharp = weights.map((weight, i) => SHARPNESS * (weight + DOUBT * doubts[i]));
  const end = digits.at(-1).stop;
  const [before, after, best] = [0, 1, 2].map(() => new Array(end + 1).fill(-Infinity));
  const last = new Array(end + 1).fill(0);
  before[0] = after[end] = best[0] = 0;
  digits.forEach(({ start, stop }, i) => {
    before[stop] = logAddExp(before[stop], before[start] + sharp[i]);
    if (best[start] + weights[i] > best[stop]) [best[stop], last[stop]] = [best[start] + weights[i], i];
  });
  for (let i = digits.length - 1; i >= 0; i--) {
    const { start, stop } = digits[i];
    after[start] = logAddExp(after[start], after[stop] + sharp[i]);
  }
  const chosen = [];
  for (let place = end; place > 0; place = digits[chosen[0]].start) chosen.unshift(last[place]);
  return chosen.map((i) => {
    const share = before[digits[i].start] + sharp[i] + after[digits[i].stop] - before[end];
    return { index: i, confidence: tops[i] * Math.exp(share) };
  });
}

function joinLines(predictions) { // the text of each line, with spaces at wide gaps
  const gaps = predictions.slice(1).map(({ box, line }, i) => (
    line === predictions[i].line ? box.left - predictions[i].box.left - predictions[i].box.width : null
  )).filter((gap) => gap !== null);
  const height = median(predictions.map(({ box }) => box.height));
  const limit = Math.min(2 * height, Math.max(0.8 * height, 1.5 * (gaps.length ? median(gaps) : 0)));
  const lines = [];
  let end = 0;
  for (const { prediction, known, line, box } of predictions) {
    const text = known >= MIN_KNOWN ? prediction : "?";
    if (line === lines.length) lines.push(text);
    else lines[lines.length - 1] += box.left - end > limit ? ` ${text}` : text;
    end = box.left + box.width;
  }
  return lines;
}

// ---- numbers

const ascending = (a, b) => a - b;
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const median = (values) => quantile([...values].sort(ascending), 0.5);

function round(value) { // halves to even numbers, as in Python
  const below = Math.floor(value);
  return value - below === 0.5 ? below + below % 2 : Math.round(value);
}

function quantile(sorted, fraction) {
  return valueAt(sorted, fraction * (sorted.length - 1));
}

function valueAt(sorted, place) { // between two values
  const below = Math.floor(place), [a, b] = [sorted[below] ?? 0, sorted[below + 1] ?? 0];
  return place > below ? a + (place - below) * (b - a) : a;
}

function logAddExp(a, b) {
  return a === b ? a + Math.LN2 : Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
}
