"""What a stream of changes amounts to."""


class Model:
    """Keyspaces as dicts, made by applying changes to nothing."""

    def __init__(self):
        self.spaces = {}
        self.sequence = 0

    def apply(self, change):
        assert change.sequence > self.sequence, "commit order, and nothing twice"
        self.sequence = change.sequence
        for o in change.operations:
            self.operate(o)

    def operate(self, o):
        if o.op == "create_keyspace":
            assert o.keyspace not in self.spaces
            self.spaces[o.keyspace] = {}
        elif o.op == "drop_keyspace":
            del self.spaces[o.keyspace]
        elif o.op == "rename_keyspace":
            self.spaces[o.value.decode()] = self.spaces.pop(o.keyspace)
        elif o.op == "put":
            self.spaces[o.keyspace][o.key] = o.value
        elif o.op == "delete":
            self.spaces[o.keyspace].pop(o.key, None)
        else:
            assert o.op == "delete_range"
            space = self.spaces[o.keyspace]
            for key in [k for k in space if k >= o.key and (o.value is None or k < o.value)]:
                del space[key]

    def agrees_with(self, db):
        assert self.spaces == contents(db)


def contents(db):
    return {name: dict(db[name].scan()) for name in db.keyspaces()}


def follow_all(stream, model):
    for change in stream:
        model.apply(change)
    return model


def follow_before(stream, spaces=None):
    """Applies a stream with full before-images to keyspaces as dicts; each must tell what is there."""
    model = Model()
    model.spaces = {} if spaces is None else spaces
    for change in stream:
        for o in change.operations:
            if o.op in ("put", "delete"):
                was = model.spaces[o.keyspace].get(o.key)
                assert (o.existed, o.before) == (was is not None, was), (change.sequence, o)
            model.operate(o)
    return model
