// Shows the OpenAPI document with Swagger UI; its Authorize button sets the key for the requests tried out.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
