"""Sheets show the frames that they were given."""

import numpy as np

from utils.sheets import contact_sheet


def test_sheet_shows_each_tile_in_its_row_and_column():
    red, blue = (np.full((2, 8, 8, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    sheet = contact_sheet({"first": red[:1], "second": blue})
    assert sheet.getpixel((100, 40)) == (255, 0, 0) and sheet.getpixel((200, 40)) == (255, 255, 255)
    assert sheet.getpixel((100, 140)) == (0, 0, 255) and sheet.getpixel((200, 140)) == (0, 0, 255)
