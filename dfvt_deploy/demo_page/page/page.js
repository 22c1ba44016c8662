"use strict";
const $ = (id) => document.getElementById(id);
const state = { blob: null, shown: null, image: null, sides: [], heat: null, asked: 0 };

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").className = bad ? "error" : "";
}

async function request(path, options) {
  let reply;
  try { reply = await fetch(path, options); }
  catch { throw new Error("the demo itself does not answer; start it again with: dfvt-deploy demo"); }
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  return found;
}

async function picture(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

const post = (path, sides, body) => request(
  `${path}?${new URLSearchParams(sides.map((side) => ["side", side]))}`,
  { method: "POST", body });

async function ask(blob) {
  const mine = ++state.asked;
  try {
    say("Asking…");
    state.blob = blob;
    if (!$("first").value) await loadModels();  // the server was not there before
    const sides = [$("first").value, $("second").value].filter(Boolean);
    const found = await post("answer", sides, blob);
    const image = await createImageBitmap(blob);
    for (const side of found)
      for (const part of ["map", "difference"])
        if (side[part]) side[part] = await picture(side[part]);
    if (mine !== state.asked) return;
    Object.assign(state, { image, shown: blob, sides: found, heat: null });
    document.querySelector("figure").hidden = $("heat").disabled = false;
    $("divide").hidden = found.length < 2;
    show();
    say("Answered.");
  } catch (error) { if (mine === state.asked) say(error.message, true); }
}

function show() {
  const side = Math.max(state.image.width, state.image.height);
  const scale = Math.min(Math.max(side, 720), 1200) / side;
  const canvas = $("canvas"), pen = canvas.getContext("2d");
  canvas.width = Math.max(1, state.image.width * scale);
  canvas.height = Math.max(1, state.image.height * scale);
  pen.drawImage(state.image, 0, 0, canvas.width, canvas.height);
  const cut = state.sides.length < 2 ? canvas.width : canvas.width * $("divider").value;
  state.sides.forEach((side, i) => {
    pen.save();
    pen.beginPath();
    pen.rect(i ? cut : 0, 0, i ? canvas.width : cut, canvas.height);
    pen.clip();
    overlay(pen, side, scale);
    pen.restore();
  });
  if (cut < canvas.width) pen.fillRect(cut - 1, 0, 2, canvas.height);
  $("answers").replaceChildren(...state.sides.map(list));
}

function overlay(pen, side, scale) {
  const { width, height } = pen.canvas;
  const least = +$("score").value;
  const layer = (image, opacity) => {
    pen.globalAlpha = opacity;
    pen.drawImage(image, 0, 0, width, height);
    pen.globalAlpha = 1;
  };
  if (side.map) layer(side.map, +$("opacity").value);
  if (side.difference) layer(side.difference, 0.8);
  for (const row of side.rows.filter((row) => row.box && row.value >= least).reverse()) {
    layer(mask(row, width, height, scale), +$("opacity").value);
    const [x1, y1, x2, y2] = row.box.map((side) => side * scale);
    pen.strokeStyle = row.colour;
    pen.lineWidth = 3;
    pen.setLineDash(row.differs ? [8, 5] : []);
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const caption = `${row.label} ${row.value.toFixed(2)}`, top = Math.max(0, y1 - 20);
    pen.font = "16px sans-serif";
    pen.fillStyle = row.colour;
    pen.fillRect(x1, top, pen.measureText(caption).width + 6, 20);
    pen.fillStyle = "black";
    pen.fillText(caption, x1 + 3, top + 15);
  }
  if (state.heat && state.heat.side === side.side) layer(state.heat.picture, +$("opacity").value);
}

// COCO's run lengths, column by column: see tasks/rle.py.
function mask(row, width, height, scale) {
  const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext("2d");
  const rows = row.mask.size[0], counts = [];
  let value = 0, shift = 0, at = 0;
  for (const letter of row.mask.counts) {
    const group = letter.charCodeAt(0) - 48;
    value |= (group & 31) << shift;
    shift += 5;
    if (group & 32) continue;
    if (group & 16) value -= 2 ** shift;
    counts.push(value + (counts.length > 2 ? counts[counts.length - 2] : 0));
    value = shift = 0;
  }
  pen.fillStyle = row.colour;
  counts.forEach((count, i) => {
    for (let start = at, end = at + count; i % 2 && start < end;) {
      const column = Math.floor(start / rows), stop = Math.min(end, (column + 1) * rows);
      pen.fillRect(Math.floor(column * scale), (start % rows) * scale, Math.ceil(scale), (stop - start) * scale);
      start = stop;
    }
    at += count;
  });
  return canvas;
}

function list(side) {
  const section = document.createElement("section"), least = +$("score").value;
  const add = (parent, kind, text = "") => {
    const made = parent.appendChild(document.createElement(kind));
    made.textContent = text;
    return made;
  };
  add(section, "h2", side.side.replace(":", ", version "));
  const times = Object.entries(side.milliseconds).map(([k, v]) => `${k} ${v.toFixed(1)} ms`);
  add(section, "p", times.join(", "));
  if (side.differing !== undefined) add(section, "p", `${(100 * side.differing).toFixed(2)} % of the pixels differ (white)`);
  const rows = add(section, "ol");
  for (const row of side.rows.filter((row) => !row.box || row.value >= least)) {
    const line = add(rows, "li");
    add(line, "i").style.background = row.colour;
    add(line, "span", row.differs ? `${row.label} (differs)` : row.label);
    const meter = add(line, "meter");
    meter.value = row.value;
    meter.ariaLabel = row.label;
    add(line, "span", `${(100 * row.value).toFixed(1)} %`);
    if (row.differs) line.className = "differs";
  }
  if (!rows.children.length) add(section, "p", "nothing of this score");
  return section;
}

$("file").onclick = () => { $("file").value = ""; };  // the same file may be chosen again
$("file").onchange = () => $("file").files[0] && ask($("file").files[0]);
$("first").onchange = $("second").onchange = () => state.blob && ask(state.blob);
for (const id of ["divider", "score", "opacity"]) $(id).oninput = () => {
  const output = $(id).nextElementSibling;
  if (output) output.textContent = $(id).value;
  show();
};
document.ondragover = (event) => event.preventDefault();
document.ondrop = (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]);
};

$("heat").onclick = async () => {
  try {
    say("Covering parts of the image in turn…");
    const side = state.sides[0].side, image = state.image, found = await post("heat", [side], state.shown);
    if (image !== state.image) return;
    state.heat = { side, picture: await picture(found.picture) };
    show();
    say(`Heat map of ${found.target}: what the answer of ${side} loses where a part is covered.`);
  } catch (error) { say(error.message, true); }
};

$("camera").onclick = async () => {
  const video = $("video");
  try {
    if (video.hidden) {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      await video.play();
      video.hidden = false;
      $("camera").textContent = "Take the picture";
      return;
    }
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    for (const track of video.srcObject.getTracks()) track.stop();
    video.hidden = true;
    $("camera").textContent = "Camera";
    ask(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 }));
  } catch (error) { say(`no camera: ${error.message}`, true); }
};

async function loadModels() {
  const models = await request("models");
  if (!models.length) throw new Error("The server serves no whole model; see: dfvt-deploy populate");
  for (const [id, kept] of [["first", 0], ["second", 1]]) {
    $(id).length = kept;
    $(id).append(...models.map((name) => new Option(name.replace(":", ", version "), name)));
  }
}
loadModels().catch((error) => say(error.message, true));
