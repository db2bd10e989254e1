"""Reading a page that we wrote."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags of a page with their attributes, and its texts, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.text = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)
