"""A small well-formed CSV file."""

GOOD = "id,excerpt,target\n" + "".join(f"r{i},some words here,{i}.5\n" for i in range(10))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)
