"""The preparation of data sets from photographs."""
