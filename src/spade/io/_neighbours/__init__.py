"""Objects of other packages in the form that this one reads."""
