"""Images and labels of a project as samples: paired, read, split."""
