// Shows the OpenAPI document with Swagger UI; its Authorize button sets the key for requests sent from the page.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
