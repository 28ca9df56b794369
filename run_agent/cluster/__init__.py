"""The replica's own pod: what it says of the release to those who look at Kubernetes.

Owns what is written there (`report`, and `objects` as the API has it), when it is told (`teller`)
and tried again (`backoff`), what the log says of that (`complaints`), which account it is told with
(`account`), and the short-lived process that holds the Kubernetes SDK (`worker`, spoken to in
`messages`). Must not judge the replica: `entrypoint.pod` says what is to be told. Everything here
is optional: a replica without an API boots, serves and stops just the same.
"""
