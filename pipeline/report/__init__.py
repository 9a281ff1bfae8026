"""The HTML report: data, page, plots, pictures and recommendations."""
