// Draws openapi.yml into the page. Nothing is fetched from anywhere but this daemon.
SwaggerUIBundle({
  url: "../openapi.yml",
  dom_id: "#swagger-ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  validatorUrl: null,
});
