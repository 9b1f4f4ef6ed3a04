"""Parts of the one training loop, `dollkit.loop.fit`: what it needs beside the step itself."""
