"""The review page: people look at photographs and decide; decisions are lines of labels.csv."""
