"""`daa demo`: a page in the browser to restore photos, one or many, and to adapt a restorer to one's own."""
