"use strict";

const SHOWN = 5; // classes before "all of them"
const find = (id) => document.getElementById(id);
let model = null;
let work = Promise.resolve(); // pictures are sent one after the other

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function percent(share) {
  const text = (100 * share).toFixed(1);
  return (text === "100.0" && share < 1 ? "> 99.9" : text === "0.0" && share > 0 ? "< 0.1" : text) + " %";
}

function tell(text) {
  find("status").textContent = text;
}

function complain(text) {
  find("problem").textContent = text;
  find("problem").hidden = text === "";
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached.");
  }
  const content = response.status === 204 ? {} : await response.json().catch(() => ({}));
  return { status: response.status, content };
}

async function learnAbout() {
  const { status, content } = await ask("about");
  find("sign-in").hidden = status !== 401;
  if (status !== 200) {
    if (status !== 401) complain(content.error || `The server answered ${status}.`);
    return;
  }
  model = content;
  document.title = `${model.name} · tintype`;
  find("name").textContent = model.name;
  const names = model.classes.slice(0, 12).join(", ");
  const more = model.classes.length > 12 ? ` and ${model.classes.length - 12} more` : "";
  find("classes").textContent = `This model knows ${model.classes.length} classes: ${names}${more}.`;
  find("report").hidden = !model.report;
  find("card").hidden = !model.card;
  find("choose").hidden = false;
}

async function signIn(event) {
  event.preventDefault();
  const { status, content } = await ask("session", { method: "POST", body: find("token").value });
  complain(status === 204 ? "" : content.error || "That did not work.");
  if (status !== 204) return;
  find("token").value = "";
  await learnAbout();
  find("files").focus();
}

function rows(ranked) {
  return ranked.map(([name, probability], position) => {
    const fill = make("span");
    fill.style.width = `${100 * probability}%`;
    return make("tr", position === 0 ? { class: "best" } : {},
      make("th", { scope: "row" }, name),
      make("td", { "aria-hidden": "true" }, make("span", { class: "bar" }, fill)),
      make("td", { class: "number" }, percent(probability)));
  });
}

function tables(prediction) {
  const ranked = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const first = make("table", {}, make("caption", {}, "Probability of each class"), make("tbody", {}, ...rows(ranked.slice(0, SHOWN))));
  if (ranked.length <= SHOWN) return [first];
  const rest = make("table", {}, make("tbody", {}, ...rows(ranked.slice(SHOWN))));
  rest.querySelector("tr").classList.remove("best");
  return [first, make("details", {}, make("summary", {}, `The other ${ranked.length - SHOWN} classes`), rest)];
}

function headline(prediction) {
  if (prediction.error) return "Not readable";
  if (prediction.sure) return `${prediction.label}, ${percent(prediction.probability)}`;
  return `Not sure: perhaps ${prediction.label}, ${percent(prediction.probability)}`;
}

function show(file, prediction) {
  const kind = prediction.error ? " failed" : prediction.sure ? "" : " unsure";
  const picture = make("img", { alt: `The picture ${file.name}` });
  const address = URL.createObjectURL(file);
  picture.addEventListener("error", () => picture.remove()); // a format that this browser does not show
  picture.addEventListener("load", () => URL.revokeObjectURL(address));
  picture.src = address;
  const words = make("div", {}, make("h2", {}, headline(prediction)), make("p", { class: "file" }, file.name));
  if (prediction.error) words.append(make("p", {}, `It cannot be read: ${prediction.error}.`));
  else {
    if (!prediction.sure) words.append(make("p", {}, `Below ${percent(model.threshold)} this model does not answer for sure.`));
    words.append(...tables(prediction));
  }
  const answer = make("article", { class: `answer${kind}` }, make("div", {}, picture), words);
  if (prediction.explanation) {
    const looked = make("img", { alt: `Left the picture as the network got it, right where it looked for ${prediction.label}: bright places spoke for it` });
    looked.src = `data:image/png;base64,${prediction.explanation}`;
    answer.append(make("figure", { class: "looked" }, looked,
      make("figcaption", {}, `Where the network looked: what is bright spoke for ${prediction.label}.`)));
  }
  find("answers").prepend(answer);
  tell(`${file.name}: ${headline(prediction)}`);
}

async function label(file) {
  if (file.size > model.max_bytes) {
    complain(`${file.name} is larger than ${Math.floor(model.max_bytes / 2 ** 20)} MiB.`);
    return;
  }
  tell(`Looking at ${file.name} …`);
  const form = new FormData();
  form.append("images", file, file.name);
  const { status, content } = await ask("predict?explain=true", { method: "POST", body: form });
  if (content.predictions) {
    show(file, content.predictions[0]);
    return;
  }
  find("sign-in").hidden = status !== 401;
  tell("");
  complain(content.error || `The server answered ${status}.`);
}

function take(files) {
  complain("");
  for (const file of [...files]) work = work.then(() => label(file)).catch((error) => { tell(""); complain(error.message); });
}

function dragged(event) {
  event.preventDefault();
  find("choose").classList.toggle("over", event.type === "dragover");
  if (event.type === "drop" && model) take(event.dataTransfer.files);
}

for (const id of ["files", "camera"]) {
  find(id).addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same picture can be chosen again
  });
}
for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, dragged);
document.addEventListener("paste", (event) => { if (model) take(event.clipboardData.files); });
find("sign-in").addEventListener("submit", signIn);
learnAbout().catch((error) => complain(error.message));
