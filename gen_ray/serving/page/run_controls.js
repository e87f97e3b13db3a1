/** The start and stop buttons, progress bar, status line and error message of one task. */

import { h } from "./dom.js";
import { countOf } from "./format.js";

/** Controls of a task that can be started, restarted and stopped. */
export class RunControls {
  /**
   * @param {string} label of the start button
   * @param {(tools: {signal, onBusy, onProgress}) => Promise<string>} task returns the final status line
   */
  constructor(label, task) {
    this.task = task;
    this.controller = null; // the AbortController of the running task
    this.startButton = h("button.primary", { type: "submit" }, label);
    this.stopButton = h("button", { type: "button", hidden: true, onclick: () => this.stop() }, "Stop");
    this.progressBar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Network evaluations done" });
    this.progressCount = h("span.progress-count", { "aria-hidden": "true" });
    this.status = h("p.status", { role: "status", "aria-live": "polite" });
    this.error = h("p.error", { role: "alert" });
    const buttons = h("div.buttons", {}, this.startButton, this.stopButton, this.status);
    this.element = h("div.run-controls", {}, buttons, h("div.progress-row", {}, this.progressBar, this.progressCount), this.error);
  }

  /** Cancel the running task, then start the default task or the given one. */
  async start(task = this.task) {
    this.controller?.abort();
    const controller = (this.controller = new AbortController());
    this.lastProgress = null;
    this.showStatus("");
    this.stopButton.hidden = false;
    try {
      const finalStatus = await task({
        signal: controller.signal,
        onBusy: (seconds) => this.showBusy(seconds),
        onProgress: (done, total) => controller === this.controller && this.showProgress(done, total),
      });
      if (controller === this.controller) this.showStatus(finalStatus);
    } catch (error) {
      if (controller === this.controller) this.showError(error, controller.signal);
    } finally {
      if (controller === this.controller) this.reset();
    }
  }

  /** Cancel the running task; the server stops it within one network evaluation. */
  stop() {
    this.controller?.abort();
  }

  showProgress(done, total) {
    this.lastProgress = [done, total];
    if (this.status.textContent) this.showStatus("");
    this.progressBar.hidden = false;
    this.progressBar.max = total;
    this.progressBar.value = done;
    this.progressCount.textContent = `${done} / ${total}`;
  }

  /** Show a status line and an error message. */
  showStatus(status, error = "") {
    this.status.textContent = status;
    this.error.textContent = error;
  }

  showBusy(seconds) {
    this.showStatus(`The server is busy; trying again in ${seconds} s.`);
  }

  showError(error, signal) {
    if (signal?.aborted) {
      const [done, total] = this.lastProgress ?? [];
      this.showStatus(this.lastProgress ? `Stopped after ${done} of ${countOf(total, "evaluation")}.` : "Stopped.");
    } else {
      this.showStatus("", error.requestId ? `${error.message} (request ${error.requestId})` : error.message);
      if (!("status" in error)) throw error; // an error of the page itself: show it in the console
    }
  }

  reset() {
    this.controller = null;
    this.stopButton.hidden = this.progressBar.hidden = true;
    this.progressCount.textContent = "";
  }
}
