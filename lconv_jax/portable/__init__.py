"""A trained network in a form that other programs read: .npz for NumPy, .onnx for runtimes."""
