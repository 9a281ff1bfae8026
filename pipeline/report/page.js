"use strict";

// Tables: a click on a heading sorts by its column, a second click reverses the order; empty cells stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}

function sort(heading) {
  const rising = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const body = heading.closest("table").tBodies[0];
  const value = (row) => row.cells[heading.cellIndex].dataset.value;
  const rows = [...body.rows].sort((a, b) => order(value(a), value(b), rising ? 1 : -1));
  body.append(...rows);
}

function order(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [Number(a), Number(b)];
  return direction * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
}

// Galleries: a tile opens the lightbox, which steps through the tiles of its gallery.
const lightbox = document.getElementById("lightbox");
const part = (id) => document.getElementById(id);
let open = null; // the tile in the lightbox

for (const tile of document.querySelectorAll(".tile")) {
  tile.addEventListener("click", () => {
    show(tile);
    lightbox.showModal();
  });
}

function show(tile) {
  open = tile;
  const outlines = () => tile.querySelector("svg").cloneNode(true);
  const image = () => tile.querySelector("img").cloneNode();
  const heat = tile.parentElement.querySelector("template").content.cloneNode(true);
  const truth = outlines();
  truth.querySelector(".predicted").remove();
  part("shown").textContent = tile.querySelector(".name").textContent;
  part("summary").textContent = [...tile.querySelectorAll(".facts span")].map((fact) => fact.textContent).join(" · ");
  part("plain").replaceChildren(image());
  part("both").replaceChildren(image(), outlines());
  part("heat").replaceChildren(heat, truth);
  const { width, height } = truth.viewBox.baseVal;
  for (const id of ["plain", "both", "heat"]) part(id).style.aspectRatio = `${width} / ${height}`;
}

function step(by) {
  const tiles = [...open.closest(".gallery").querySelectorAll(".tile")];
  show(tiles[(tiles.indexOf(open) + by + tiles.length) % tiles.length]);
}

part("previous").addEventListener("click", () => step(-1));
part("next").addEventListener("click", () => step(1));
part("close").addEventListener("click", () => lightbox.close());
lightbox.addEventListener("click", (event) => event.target === lightbox && lightbox.close());
lightbox.addEventListener("close", () => open.focus());
lightbox.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
