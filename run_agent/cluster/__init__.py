"""The replica's own pod: what it says of the release to those who look at Kubernetes.

Owns what is written there (`report`), when it is told and tried again (`teller`), which account it
is told with (`account`), and the short-lived process that holds the Kubernetes SDK (`worker`). Must
not judge the replica: `entrypoint.pod` says what is to be told. Everything here is optional: a
replica without an API boots, serves and stops just the same.
"""
