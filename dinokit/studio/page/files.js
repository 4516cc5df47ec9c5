// Images that somebody brings: chosen, dropped anywhere on the page, or pasted. `open(file)` takes the first.

export function takeFiles(open) {
  const drop = document.getElementById("drop");
  const first = ([file]) => file && open(file);
  document.getElementById("file").addEventListener("change", ({ target }) => {
    first(target.files);
    target.value = ""; // so that the same one can be chosen again
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.hidden = !event.dataTransfer.types.includes("Files");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || (drop.hidden = true));
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.hidden = true;
    first(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => first(event.clipboardData.files));
}
