// The API's document, with a button that asks for a key and sends it along with what is tried out.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
