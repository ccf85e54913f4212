SwaggerUIBundle({ url: "docs.json", dom_id: "#swagger", deepLinking: true, validatorUrl: null });
