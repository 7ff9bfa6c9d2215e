"use strict";

// Reads digits by asking the service. `standalone.js` offers the same functions without one.

const TIMEOUT_MS = 15_000;

const reader = {
  readsPhotos: true,

  async about() { // the model's metadata
    return (await (await fetch("readyz")).json()).model;
  },

  // Returns { predictions, lines } for a photo, as a Blob, or for a drawing, as a canvas. Throws an error with
  // `isTemporary` if it is worth another try.
  async read(picture, many, signal) {
    const image = picture instanceof Blob ? picture : await picture.convertToBlob({ type: "image/png" });
    return this.ask(many ? "predict?digits=many" : "predict", image, image.type, signal);
  },

  // Returns the probabilities of each class, a list for each of the images: lists of 28 rows of 28 pixels from 0 to 255.
  async classify(images, signal) {
    const { predictions } = await this.ask("predict", JSON.stringify({ images }), "application/json", signal);
    return predictions.map((found) => Object.values(found.probabilities));
  },

  async ask(path, body, type, signal) {
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    const timer = setTimeout(abort, TIMEOUT_MS);
    signal.addEventListener("abort", abort);
    let response, content;
    try {
      response = await fetch(path, { method: "POST", headers: { "Content-Type": type }, body, signal: attempt.signal });
      content = await response.text();
    } catch {
      throw Object.assign(new Error("The server isn't responding. Retrying…"), { isTemporary: true });
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
    }
    try {
      content = JSON.parse(content);
    } catch { // a proxy's error page
      content = { error: `The server answered with an error (${response.status}).` };
    }
    if (content.error) throw new Error(content.error);
    return content;
  },
};
