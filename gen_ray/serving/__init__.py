"""The serving API for trained models: request types, model services, HTTP routes and a web page; without Ray."""
