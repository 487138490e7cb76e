"""What several tests need: sound made in code, and a kernel filter that kills whoever opens a socket."""
