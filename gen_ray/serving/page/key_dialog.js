/** The dialog that asks for an API key. */

import { apiKey, setKeyPrompt } from "./api.js";

/** Set up the dialog, and the button in the footer that deletes the key. */
export function setUpKeyDialog() {
  const [dialog, message, input, forgetButton] = ["key-dialog", "key-dialog-message", "key", "forget-key"].map((id) => document.getElementById(id));
  const updateForgetButton = () => (forgetButton.hidden = apiKey.get() === null);
  setKeyPrompt((rejected) => {
    message.textContent = rejected ? "That key was not accepted. Enter another key." : "This server requires an API key.";
    apiKey.remove();
    input.value = "";
    dialog.showModal();
    return new Promise((resolve) => {
      const finish = (key) => {
        dialog.close();
        resolve(key);
        queueMicrotask(updateForgetButton);
      };
      // the form is never submitted, because the key must be in a header and not in the URL
      dialog.querySelector("form").onsubmit = (event) => (event.preventDefault(), finish(input.value.trim()));
      document.getElementById("key-dialog-cancel").onclick = () => finish(null);
      dialog.oncancel = () => finish(null);
    });
  });
  forgetButton.onclick = () => (apiKey.remove(), updateForgetButton());
  updateForgetButton();
}
