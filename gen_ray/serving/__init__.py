"""The serving API for trained models: HTTP routes, request checks, model services and the web page; without Ray.

The path of a request, for example POST /v1/models/digits/sample:

1. ``access_log`` gives it a request id; ``middleware`` checks its host, key, number and size (``settings``).
2. ``api`` has the routes, one for each declaration of ``verbs``. ``strict_json`` parses the body, ``schemas`` validates
   it.
3. ``handler`` checks it against the model's card, converts its instances to arrays, and sends a job to the
   ``service`` of the model. ``deadline`` cancels the job when the client is gone or the time is over.
4. ``local_service`` runs jobs in this process on a version of the model (``sources``, ``loaded_model``): ``jobs``
   submits them to the batcher. In a cluster, gen_ray.cluster.serving sends them to a replica with a local service.
5. ``responses`` formats the result as JSON, PNG, .npz or text; ``events`` sends a stream of previews and the result.

``errors`` has the error responses of all steps, ``openapi`` the response schemas of the API's document.
"""
