"""The processes of sessions: started, reaped, attributed, and ended to the last one."""
