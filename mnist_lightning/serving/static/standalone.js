"use strict";

// Reads drawings without a server, with the same functions as `reader.js`; `export --web` puts this in its place. Photos
// need the server.

const worker = new Worker("static/worker.js"), waiting = new Map();

worker.onmessage = ({ data: { id, result, problem } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (problem) reject(new Error(problem));
  else resolve(result);
};

function ask(task, input) {
  const id = Math.random();
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, task, input });
  });
}

const reader = {
  readsPhotos: false,
  about: () => ask("about"),
  read: (canvas) => ask("read", canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)),
  classify: (images) => ask("classify", images),
};
