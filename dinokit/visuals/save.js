// Saves a figure of the page as SVG or PNG: a copy of it, 720 px wide and in light colours, is laid out beside the page;
// what it shows - drawings, pictures, words, bars - is written down as plain SVG where it lies, with colours and fonts
// resolved, so that it looks the same without the page. Nothing is loaded and nothing is sent.
"use strict";
{
  const SVG = "http://www.w3.org/2000/svg", WIDTH = 720, PAD = 16, SCALE = 2;
  const PAINT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "paint-order", "opacity", "text-anchor"];

  const round = (value) => Math.round(value * 100) / 100;
  const make = (kind, values, text) => {
    const element = document.createElementNS(SVG, kind);
    for (const [name, value] of Object.entries(values)) element.setAttribute(name, typeof value === "number" ? round(value) : value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const clear = (colour) => colour === "transparent" || /, 0\)$/.test(colour);
  const font = (style, size) => ({ "font-size": size, "font-weight": style.fontWeight, "font-family": style.fontFamily });

  // a drawing that is SVG already: its elements with the values of the style sheet, without what only answers a pointer
  function drawing(from, place, origin) {
    const box = from.viewBox.baseVal, scale = place.width / box.width;
    const group = make("g", { transform: `translate(${round(place.left - origin.left)} ${round(place.top - origin.top)}) scale(${scale})` });
    const copy = (element, into) => {
      for (const child of element.children) {
        if (child.matches("title, .hover, .wide")) continue;
        const made = document.createElementNS(SVG, child.localName), style = getComputedStyle(child);
        for (const { name, value } of child.attributes) if (name !== "class") made.setAttribute(name, value);
        if (child.localName !== "g") for (const name of PAINT) made.setAttribute(name, style.getPropertyValue(name));
        if (child.localName === "text") {
          for (const [name, value] of Object.entries(font(style, style.fontSize))) made.setAttribute(name, value);
          made.textContent = child.textContent;
        }
        into.append(made);
        copy(child, made);
      }
    };
    copy(from, group);
    return group;
  }

  // the lines of a text, as they were broken
  function* lines(node) {
    const range = document.createRange(), words = node.data.matchAll(/\S+/g);
    let line = null;
    for (const word of words) {
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const place = range.getBoundingClientRect();
      if (!place.width) continue;
      if (line && Math.abs(line.place.top - place.top) < 2) line.text += ` ${word[0]}`;
      else {
        if (line) yield line;
        line = { place, text: word[0] };
      }
    }
    if (line) yield line;
  }

  function flatten(figure, into, origin) {
    for (const node of figure.childNodes) {
      if (node.nodeType === Node.TEXT_NODE) {
        const style = getComputedStyle(figure), seen = figure.clientWidth / figure.scrollWidth;
        for (const { place, text: whole } of lines(node)) {
          const cut = style.textOverflow === "ellipsis" && seen < 1;
          const text = cut ? `${whole.slice(0, Math.floor(whole.length * seen) - 2)}\u2026` : whole;
          const y = (place.top + place.bottom) / 2 - origin.top + 0.35 * parseFloat(style.fontSize);
          into.append(make("text", { x: place.left - origin.left, y, fill: style.color, ...font(style, style.fontSize) }, text));
        }
      }
      if (node.nodeType !== Node.ELEMENT_NODE || node.matches(".save")) continue;
      const style = getComputedStyle(node), place = node.getBoundingClientRect();
      if (!place.width || style.display === "none") continue;
      const [x, y] = [place.left - origin.left, place.top - origin.top];
      if (node.localName === "svg") into.append(drawing(node, place, origin));
      else if (node.localName === "img") {
        const sharp = node.matches(".sharp") ? { "image-rendering": "optimizeSpeed", style: "image-rendering:pixelated" } : {};
        into.append(make("image", { x, y, width: place.width, height: place.height, href: node.src, ...sharp }));
      } else {
        if (!clear(style.backgroundColor))
          into.append(make("rect", { x, y, width: place.width, height: place.height, rx: Math.min(parseFloat(style.borderTopLeftRadius) || 0, place.height / 2), fill: style.backgroundColor, opacity: style.opacity }));
        if (parseFloat(style.borderTopWidth) > 0 && node.localName === "i") {
          const dash = style.borderTopStyle === "dashed" ? { "stroke-dasharray": "5 4" } : {};
          into.append(make("line", { x1: x, x2: x + place.width, y1: y + 1, y2: y + 1, stroke: style.borderTopColor, "stroke-width": style.borderTopWidth, ...dash }));
        }
        flatten(node, into, origin);
        mark(node, into, place, origin);
      }
    }
  }

  // the tick or cross on a picture, which the style sheet draws
  function mark(node, into, place, origin) {
    const style = getComputedStyle(node, "::after");
    if (!style.content.startsWith('"')) return;
    const radius = parseFloat(style.width) / 2, x = place.right - parseFloat(style.right) - radius - origin.left;
    const y = place.bottom - parseFloat(style.bottom) - radius - origin.top;
    into.append(make("circle", { cx: x, cy: y, r: radius + 2, fill: "#ffffff" }), make("circle", { cx: x, cy: y, r: radius, fill: style.backgroundColor }));
    into.append(make("text", { x, y: y + 4, fill: style.color, "text-anchor": "middle", ...font(style, style.fontSize) }, style.content.slice(1, -1)));
  }

  function picture(figure) {
    const sheet = document.createElement("div"), copy = figure.cloneNode(true);
    sheet.className = "sheet light";
    sheet.style.width = `${WIDTH}px`;
    sheet.setAttribute("aria-hidden", "true");
    sheet.append(copy);
    document.body.append(sheet);
    const place = copy.getBoundingClientRect();
    const origin = { left: place.left - PAD, top: place.top - PAD };
    const [width, height] = [Math.ceil(place.width + 2 * PAD), Math.ceil(place.height + 2 * PAD)];
    const made = make("svg", { xmlns: SVG, viewBox: `0 0 ${width} ${height}`, width, height });
    made.append(make("title", {}, figure.dataset.save), make("rect", { width, height, fill: "#ffffff" }));
    flatten(copy, made, origin);
    sheet.remove();
    return { text: new XMLSerializer().serializeToString(made), width, height };
  }

  function offer(content, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(content);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  async function save(figure, kind) {
    const { text, width, height } = picture(figure), name = `${figure.dataset.save.replace(/[^\p{L}\p{N}]+/gu, "-")}.${kind}`;
    if (kind === "svg") return offer(new Blob([text], { type: "image/svg+xml" }), name);
    const image = new Image(), canvas = document.createElement("canvas");
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    [canvas.width, canvas.height] = [width * SCALE, height * SCALE];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((content) => offer(content, name), "image/png");
  }

  function button(word, spoken, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = word;
    made.setAttribute("aria-label", spoken);
    made.addEventListener("click", action);
    return made;
  }

  for (const figure of document.querySelectorAll("[data-save]")) {
    const group = document.createElement("div");
    group.className = "save";
    for (const kind of ["svg", "png"])
      group.append(button(kind.toUpperCase(), `Save ${figure.dataset.save} as ${kind.toUpperCase()}`, () => save(figure, kind)));
    figure.append(group);
  }
  const numbers = document.getElementById("numbers"), place = document.querySelector("[data-numbers]");
  if (numbers && place)
    place.append(" ", button("Save them", "Save the numbers as JSON", () => offer(new Blob([numbers.textContent], { type: "application/json" }), "numbers.json")));
}
