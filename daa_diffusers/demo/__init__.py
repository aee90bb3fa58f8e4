"""Page of `daa demo`: restoration of one photo or many, and adaptation of a restorer, in the browser."""
