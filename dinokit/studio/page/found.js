// What a search found: thumbs with their likeness, the best patch marked; a click shows the image beside the others.
import { source } from "./source.js";
import { made } from "./tiles.js";

const COUNT_FOUND = 24;

// Search by an image, or by the patch {row, column} of it, and list what is found.
export async function search({ model, step, image, name, patch, chosen }) {
  const panel = document.getElementById("found"),
    said = document.getElementById("found-said");
  const list = document.getElementById("found-list");
  panel.hidden = false;
  list.replaceChildren();
  said.textContent = "searching ...";
  panel.scrollIntoView({ block: "nearest" });
  const place = patch ? [patch.row, patch.column] : null;
  try {
    const { found, searched, of } = await source.search({ model, step, image, patch: place, count: COUNT_FOUND });
    const what = patch ? `the patch in row ${patch.row + 1}, column ${patch.column + 1} of ${name}` : name;
    const some =
      searched < of
        ? `${searched.toLocaleString("en")} of ${of.toLocaleString("en")}`
        : `all ${of.toLocaleString("en")}`;
    said.textContent = `Nearest to ${what}, among ${some} images.`;
    list.replaceChildren(...found.map((each) => made("li", {}, thumb(each, chosen))));
    panel.scrollIntoView({ block: "nearest" });
  } catch (problem) {
    said.textContent = problem.message;
  }
}

function thumb({ id, name, score, patch, grid }, chosen) {
  const button = made("button", { type: "button", className: "hit", title: name });
  const box = made("span", { className: "picture" }, made("img", { src: source.thumb(id), alt: "", loading: "lazy" }));
  if (patch && grid) {
    const mark = made("i", { className: "best" });
    mark.style.left = `${((patch[1] + 0.5) / grid[1]) * 100}%`;
    mark.style.top = `${((patch[0] + 0.5) / grid[0]) * 100}%`;
    box.append(mark);
  }
  button.append(box, made("span", { className: "score", textContent: score.toFixed(2) }));
  button.setAttribute("aria-label", `${name}, ${score.toFixed(2)}: show it`);
  button.addEventListener("click", () => chosen(id, name));
  return button;
}
