"""The image worker: resizes images, makes thumbnails, renders reports. The only place that knows Pillow."""
