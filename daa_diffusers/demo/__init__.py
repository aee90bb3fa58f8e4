"""Web page of `daa demo`: restoration of photos, and adaptation of a restorer."""
