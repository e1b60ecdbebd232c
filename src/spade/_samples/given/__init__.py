"""What users pass as samples: folders, patterns, sample sheets and feature files."""
