"""The serving API for trained models: HTTP routes, request checks, model services and the web page; without Ray.

The path of a request, for example POST /v1/models/digits/sample:

1. ``access_log`` gives it a request id; ``middleware`` checks its host, key, number and size (``settings``).
2. ``api`` has the routes, one for each declaration of ``verbs``. ``inputs`` parses the body, ``schemas`` validates it.
3. ``handler`` checks it against the model's card, converts its instances to arrays (``inputs``), and sends a job to the
   ``service`` of the model. ``connection`` cancels the job when the client is gone or the time is over.
4. ``local_service`` runs jobs in this process on a version of the model (``loaded_model``): ``jobs`` submits them to
   the batcher. In a cluster, gen_ray.cluster.serving sends them to a replica with a local service.
5. ``responses`` formats the result as JSON, PNG, .npz, text or CSV; ``connection`` sends a stream of previews, then the
   result.

``errors`` has the error responses of all steps, ``result_schemas`` the responses of the API's document. ``tables``
writes the rows of tables of data, and ``table_jobs`` computes the statistics of their missing cells.
"""
