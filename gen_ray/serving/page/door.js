/** The dialog that asks for a key. */

import * as api from "./api.js";

/** Set up the dialog, and the button in the footer that deletes the key. */
export function guard() {
  const [door, line, input, forget] = ["door", "door-line", "key", "forget"].map((id) => document.getElementById(id));
  const seen = () => (forget.hidden = api.key.get() === null);
  api.askWith((refused) => {
    line.textContent = refused ? "That key was not accepted. Enter another key." : "This server requires an API key.";
    api.key.forget();
    input.value = "";
    door.showModal();
    return new Promise((resolve) => {
      const leave = (key) => {
        door.close();
        resolve(key);
        queueMicrotask(seen);
      };
      // the form is never submitted, because the key must be in a header and not in the URL
      door.querySelector("form").onsubmit = (event) => (event.preventDefault(), leave(input.value.trim()));
      document.getElementById("door-cancel").onclick = () => leave(null);
      door.oncancel = () => leave(null);
    });
  });
  forget.onclick = () => (api.key.forget(), seen());
  seen();
}
