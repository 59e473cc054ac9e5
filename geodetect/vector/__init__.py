"""Vector files: labels and features in, detections out."""
