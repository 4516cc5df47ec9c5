// The data of an exported page: all in the page itself, in the place of `source.js`.

const exported = JSON.parse(document.getElementById("exported").textContent);

// Return octets that are written as base64.
async function unpacked(kind, model, image, step) {
  const text = exported[kind]?.[`${model}/${image}/${step ?? ""}`];
  if (text === undefined) throw new Error(`the exported page holds no ${kind} of this image`);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

export const source = {
  live: false,
  about: async () => exported.about,
  images: async (from, count) => ({
    count: exported.images.length,
    images: exported.images.slice(from, from + count),
  }),
  thumb: (image) => exported.thumbs[image],
  picture: (model, image) => exported.pictures[`${model}/${image}`],
  features: (model, image, step) => unpacked("features", model, image, step),
  attention: (model, image, step) => unpacked("attention", model, image, step),
};
