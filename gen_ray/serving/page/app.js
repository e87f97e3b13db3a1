/** The page: selection of model, seed and tab. The tabs implement everything else. */

import * as api from "./api.js";
import { CanvasEditor } from "./canvas_editor.js";
import { h } from "./dom.js";
import { modelSummary } from "./format.js";
import { setUpKeyDialog } from "./key_dialog.js";
import { dieIcon, randomSeed } from "./random_seed.js";
import { rendererFor } from "./renderers.js";
import { compareTab } from "./tabs/compare.js";
import { imputeTab } from "./tabs/impute.js";
import { latentTab } from "./tabs/latent.js";
import { rowTab } from "./tabs/row.js";
import { sampleTab } from "./tabs/sample.js";
import { scoreTab } from "./tabs/score.js";
import * as urlState from "./url_state.js";

const TABS = [rowTab, sampleTab, imputeTab, latentTab, scoreTab, compareTab];
const TAB_OF_VERB = { impute: imputeTab, encode: latentTab, score: scoreTab };
const ids = { model: "model", seed: "seed", seedButton: "random-seed", summary: "model-summary", warning: "model-warning", error: "page-error", tabs: "tabs", main: "main" };
const elements = Object.fromEntries(Object.entries(ids).map(([name, id]) => [name, document.getElementById(id)]));
const canvasEditor = new CanvasEditor();
let cards = [];
let card = null;
let currentTab = null;
let panels = new Map(); // of the tabs opened so far

const TABS_OF_KIND = { rows: [rowTab, sampleTab, compareTab], numbers: [sampleTab, compareTab] };

/** Return whether the model supports a tab. Data other than images and texts have fewer tabs. */
function isSupported(tab) {
  const { kind } = rendererFor(card);
  const isRendered = kind in TABS_OF_KIND ? TABS_OF_KIND[kind].includes(tab) : tab !== rowTab;
  return card.verbs.includes(tab.verb) && isRendered && (tab !== latentTab || card.latent_dim);
}

/** Return the seed in the input field. */
function seed() {
  return Number(elements.seed.value);
}

function setSeed(value) {
  elements.seed.value = value;
  elements.seedButton.replaceChildren(dieIcon(value));
}

/** Return the functions and data that the tabs need. */
function tabContext() {
  return {
    card, cards, canvasEditor, seed,
    openInTab,
    submitHandler: (runControls) => (event) => {
      event.preventDefault();
      if (elements.seed.reportValidity()) runControls.start();
    },
  };
}

/** Open the tab of a verb with a sample of a model. */
async function openInTab(verb, sample, id = card.id) {
  if (id !== card.id) setModel(id);
  const tab = rendererFor(card).kind === "rows" ? rowTab : TAB_OF_VERB[verb];
  openTab(tab);
  await panels.get(tab).setInstance(sample);
}

/** Switch to another model. The tabs are rebuilt, because their settings belong to the previous model. */
function setModel(id) {
  for (const panel of panels.values()) panel.stop();
  panels = new Map();
  card = cards.find((other) => other.id === id);
  elements.model.value = id;
  elements.summary.textContent = modelSummary(card);
  elements.warning.textContent = card.copies ? `Promoted with --force although ${card.copies}.` : "";
  elements.error.textContent = card.trouble ?? "";
  if (rendererFor(card).kind === "image") canvasEditor.setShape(card.data.shape);
  elements.tabs.replaceChildren(...TABS.filter(isSupported).map(tabButton));
  urlState.write({ model: id });
}

function tabButton(tab) {
  const properties = { id: `tab-${tab.id}`, type: "button", role: "tab", "aria-controls": "main", onclick: () => openTab(tab) };
  return h("button", properties, h("span", {}, tab.title), h("i", { "aria-hidden": "true" }, tab.formula));
}

function openTab(tab) {
  currentTab = tab;
  if (!panels.has(tab)) panels.set(tab, tab.build(tabContext()));
  for (const button of elements.tabs.children) {
    const isOpen = button.id === `tab-${tab.id}`;
    button.setAttribute("aria-selected", String(isOpen));
    button.tabIndex = isOpen ? 0 : -1;
  }
  elements.main.setAttribute("aria-labelledby", `tab-${tab.id}`);
  elements.main.replaceChildren(panels.get(tab).element);
  panels.get(tab).onOpen?.();
  urlState.write({ tab: tab.id });
  document.title = `${tab.title} · ${card.id} · gen_ray`;
}

/** Show the state in the URL. A link that names a model and a seed also starts the run in the tabs that support this. */
function applyUrl() {
  const state = urlState.read();
  const ready = cards.filter((one) => one.ready);
  const linked = ready.find((one) => one.id === state.model);
  if (!ready.length) {
    elements.error.textContent = cards.length ? "No model is ready yet. Reload the page in a few seconds." : "This server serves no models.";
    return;
  }
  setSeed(urlState.readInteger("seed", 0, Number.MAX_SAFE_INTEGER, 0));
  urlState.write({ seed: seed() });
  setModel((linked ?? ready[0]).id);
  if (state.model && !linked) elements.error.textContent = "The model in the link is not available on this server. Another model is shown.";
  openTab(TABS.filter(isSupported).find((tab) => tab.id === state.tab) ?? TABS.find(isSupported));
  if (linked && state.seed && currentTab.runsFromLink) panels.get(currentTab).run();
}

function onModelChange() {
  urlState.write({ sampler: null, steps: null, with: null, with_sampler: null, with_steps: null });
  setModel(elements.model.value);
  openTab(isSupported(currentTab) ? currentTab : TABS.find(isSupported));
}

function onSeedInput() {
  urlState.write({ seed: elements.seed.value });
  elements.seedButton.replaceChildren(dieIcon(seed()));
}

function onRandomSeed() {
  setSeed(randomSeed());
  urlState.write({ seed: elements.seed.value });
  if (currentTab.runsFromLink || currentTab === latentTab) panels.get(currentTab).run();
}

/** Open the previous or next tab with the arrow keys. */
function onTabKey(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const supported = TABS.filter(isSupported);
  openTab(supported[(supported.indexOf(currentTab) + step + supported.length) % supported.length]);
  document.getElementById(`tab-${currentTab.id}`).focus();
}

function addListeners() {
  elements.model.onchange = onModelChange;
  elements.seed.oninput = onSeedInput;
  elements.seed.onkeydown = (event) => event.key === "Enter" && panels.get(currentTab).run();
  elements.seedButton.onclick = onRandomSeed;
  elements.tabs.onkeydown = onTabKey;
  addEventListener("hashchange", applyUrl);
  addEventListener("keydown", (event) => event.key === "Escape" && panels.get(currentTab)?.stop());
}

async function start() {
  setUpKeyDialog();
  try {
    cards = await api.listModels({ onBusy: (seconds) => (elements.error.textContent = `The server is busy; trying again in ${seconds} s.`) });
  } catch (error) {
    elements.error.textContent = `${error.message} Reload the page to try again.`;
    return;
  }
  elements.error.textContent = "";
  elements.model.replaceChildren(...cards.map(({ id, ready }) => h("option", { value: id, disabled: !ready }, ready ? id : `${id} (not ready)`)));
  applyUrl();
  addListeners();
}

start();
