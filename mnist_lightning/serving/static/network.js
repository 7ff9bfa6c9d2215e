"use strict";

// The network, without a server: its layers come from network.json and its weights from weights.bin, which
// `export --web` writes. multiply.wasm multiplies matrices, about six times as fast as JavaScript.

class Network {
  static async load() {
    const names = ["network.json", "weights.bin", "multiply.wasm"];
    const answers = await Promise.all(names.map((name) => fetch(name)));
    const missing = answers.find((answer) => !answer.ok);
    if (missing) throw new Error(`${missing.url} is missing.`);
    const [description, weights, code] = [await answers[0].json(), await answers[1].arrayBuffer(), await answers[2].arrayBuffer()];
    const memory = new WebAssembly.Memory({ initial: 1 });
    const { instance } = await WebAssembly.instantiate(code, { page: { memory } });
    return new Network(description, fromFloat16(new Uint16Array(weights)), memory, instance.exports.multiply);
  }

  constructor(description, weights, memory, multiply) {
    Object.assign(this, description, { memory, multiply, used: 0 });
    let next = 0;
    for (const layer of this.layers) {
      for (const [name, shape] of Object.entries(layer.weights)) {
        layer[name] = weights.subarray(next, (next += shape.reduce((a, b) => a * b, 1)));
      }
      if (layer.kind === "EdgeConv2d") removeMeans(layer.weight, layer.weights.weight[0]);
      if (layer.weights.weight?.length > 1) layer.matrix = this.pack(layer.weight, layer.weights.weight[0]);
    }
    this.reserved = this.used; // all behind it is free again after each image
  }

  // Returns the probabilities of the classes, for an image of numbers from 0 to 255.
  classify(image) {
    this.used = this.reserved;
    let now = this.make(1, Math.sqrt(image.length));
    this.view(now).set(image.map((value) => (value / 255 - this.mean) / this.std));
    for (const layer of this.layers) now = this[layer.kind](now, layer);
    const values = this.view(now);
    let logits = this.class_names.map((_, row) => values[row * now.stride]);
    if (this.can_abstain) { // the logit of no class is 0, and each class gets the same share of that doubt
      const share = -Math.log(logits.length);
      logits = logits.map((logit) => logSumExp([logit, share]));
    }
    logits = logits.map((logit) => logit / this.temperature);
    const all = logSumExp(logits);
    return logits.map((logit) => Math.exp(logit - all));
  }

  // ---- layers, by the names that they have in torch: each returns new activations, or changes those that it gets

  Conv2d(input, { weight, matrix, out_channels: rows, kernel_size: [kernel], stride: [stride], padding: [padding] }, repeatsEdge) {
    const { size } = input, newSize = Math.floor((size + 2 * padding - kernel) / stride) + 1, columns = weight.length / rows;
    const output = this.make(rows, newSize), pixels = this.make(columns, newSize);
    const from = this.view(input), to = this.view(pixels);
    const inside = (place) => repeatsEdge ? Math.min(Math.max(place, 0), size - 1) : place;
    for (let row = 0; row < columns; row++) { // the pixels that one weight of a kernel is multiplied with
      const channel = Math.floor(row / kernel / kernel) * input.stride;
      const top = Math.floor(row / kernel) % kernel - padding, left = row % kernel - padding;
      let next = row * pixels.stride;
      for (let y = top; y < top + newSize * stride; y += stride) {
        const line = channel + inside(y) * size, isOutside = inside(y) < 0 || inside(y) >= size;
        for (let x = left; x < left + newSize * stride; x += stride, next++) {
          const column = inside(x);
          to[next] = isOutside || column < 0 || column >= size ? 0 : from[line + column];
        }
      }
    }
    this.multiply(matrix, pixels.place, output.place, output.rows, columns, 4 * output.stride);
    return output;
  }

  EdgeConv2d(input, layer) {
    const output = this.Conv2d(input, { ...layer, padding: [2] }, true);
    return this.change(output, () => Math.abs);
  }

  Linear(input, { weight, bias, matrix, out_features: rows }) {
    const output = this.make(rows, 1);
    this.multiply(matrix, input.place, output.place, output.rows, weight.length / rows, 4 * output.stride);
    return this.change(output, (channel) => (value) => value + bias[channel]);
  }

  BatchNorm2d(input, { weight, bias, running_mean, running_var, eps }) {
    return this.change(input, (channel) => {
      const factor = weight[channel] / Math.sqrt(running_var[channel] + eps), term = bias[channel] - factor * running_mean[channel];
      return (value) => factor * value + term;
    });
  }

  BatchNorm1d(input, layer) {
    return this.BatchNorm2d(input, layer);
  }

  ReLU(input) {
    return this.change(input, () => (value) => value > 0 ? value : 0);
  }

  Dropout(input) { // in training alone
    return input;
  }

  MaxPool2d(input, { kernel_size: side }) {
    const { channels, size } = input, newSize = Math.floor(size / side);
    const output = this.make(channels, newSize), from = this.view(input), to = this.view(output);
    for (let row = 0; row < channels * newSize; row++) {
      const channel = Math.floor(row / newSize), y = row % newSize;
      for (let x = 0; x < newSize; x++) {
        let largest = -Infinity;
        for (let i = 0; i < side * side; i++) {
          const place = (y * side + Math.floor(i / side)) * size + x * side + i % side;
          largest = Math.max(largest, from[channel * input.stride + place]);
        }
        to[channel * output.stride + y * newSize + x] = largest;
      }
    }
    return output;
  }

  AdaptiveMaxPool2d(input) { // of all pixels
    return this.MaxPool2d(input, { kernel_size: input.size });
  }

  Flatten(input) { // each pixel becomes a channel
    const area = input.size ** 2, output = this.make(input.channels * area, 1);
    const from = this.view(input), to = this.view(output);
    for (let row = 0; row < output.channels; row++) {
      to[row * output.stride] = from[Math.floor(row / area) * input.stride + row % area];
    }
    return output;
  }

  change(input, formulaOf) { // applies a formula for each channel
    const values = this.view(input);
    for (let channel = 0, i = 0; channel < input.channels; channel++) {
      const formula = formulaOf(channel);
      for (const end = i + input.stride; i < end; i++) values[i] = formula(values[i]);
    }
    return input;
  }

  // ---- memory, shared with multiply.wasm

  make(channels, size) { // activations: a row for each channel; padded to the 4 rows and 8 columns of multiply.wat
    const rows = 4 * Math.ceil(channels / 4), stride = 8 * Math.ceil(size * size / 8);
    const made = { channels, size, rows, stride, place: this.reserve(rows * stride) };
    this.view(made).fill(0);
    return made;
  }

  view({ place, rows, stride }) { // valid until the memory grows
    return new Float32Array(this.memory.buffer, place, rows * stride);
  }

  reserve(number) {
    const place = this.used;
    this.used += 4 * number;
    const missing = this.used - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
    return place;
  }

  pack(matrix, rows) { // groups of four rows, column by column
    const columns = matrix.length / rows;
    const place = this.reserve(4 * Math.ceil(rows / 4) * columns);
    const packed = new Float32Array(this.memory.buffer, place);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        packed[((row - row % 4) * columns) + 4 * column + row % 4] = matrix[row * columns + column];
      }
    }
    return place;
  }
}

function removeMeans(kernels, number) {
  const size = kernels.length / number;
  for (let i = 0; i < number; i++) {
    const kernel = kernels.subarray(i * size, (i + 1) * size), sum = kernel.reduce((a, b) => a + b);
    kernel.forEach((value, k) => kernel[k] = value - sum / size);
  }
}

function logSumExp(values) {
  const largest = Math.max(...values);
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
}

function fromFloat16(halves) { // many browsers have no Float16Array yet
  return Float32Array.from(halves, (half) => {
    const exponent = half >> 10 & 31, fraction = half & 1023;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction;
    return half & 0x8000 ? -size : size;
  });
}
